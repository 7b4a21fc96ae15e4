"""The figures of the API server, ours and upstream's: runs apibench against both and compares."""
import json, os, pathlib, re, shutil, signal, subprocess, sys, tempfile, time

HERE = pathlib.Path(__file__).resolve().parent
PEER_PORT = 28443
# What a row must be, by how its name begins: so many times upstream's rate, median or 99th percentile.
MUST = (
    ("write seen by", 5, "p99_ms"),
    ("server-side apply", 5, "rate"),
    ("create passing one", 5, "rate"),
    ("create of a custom", 5, "rate"),
    ("LIST", 8, "p50_ms"),
    ("first page", 8, "p50_ms"),
    ("", 8, "rate"),
)
# No more than this many times slower next to much else.
GROWTH_MUST = 1.5


class Server:
    """A running API server: where it is, and which processes it is made of."""

    def __init__(self, url, files, pids):
        self.arguments = ["-server", url, "-ca", files["ca"], "-cert", files["crt"], "-key", files["key"]]
        self.pids = pids
        self.rows = {}

    def measure(self, *phases, n, **options):
        with self.begin(*phases, n=n, **options) as process:
            self.read(process)

    def begin(self, *phases, n, **options):
        flags = [f"-{name}={value}" for name, value in {"n": n, **options}.items()]
        command = [HERE / "apibench/apibench", *self.arguments, *flags, *phases]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self, process):
        for line in process.stdout:
            found = json.loads(line)
            if "holding" in found:
                return found["holding"]
            self.rows[found["row"]] = found
            if found["fails"]:
                print(f"  {found['row']}: {found['fails']} FAILED: {found.get('why', '')}", flush=True)
        if process.wait():
            sys.exit(f"bench: apibench {process.args[-1]} failed")

    def memory(self):
        """Its memory in MB: what the processes have for themselves, and their share of what they have together."""
        found = [pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.pids]
        return sum(int(re.search(r"^Pss:\s+(\d+)", text, re.M).group(1)) for text in found) / 1024


def build():
    subprocess.run(["go", "build", "-o", HERE / "apibench/apibench", "."], cwd=HERE / "apibench", check=True)


def settled(server, seconds=6):
    """The memory once the burst is over."""
    time.sleep(seconds)
    return server.memory()


def phases(server, quick, ours):
    """Everything that is compared; the sizes in memory by name, in MB or kB."""
    n, objects, kinds = (300, 5000, 5) if quick else (2000, 100_000, 100)
    watchers, listed = ("20,100", 1000) if quick else ("100,1000", 7000)
    sizes = {}
    server.measure("verbs", n=n)
    server.measure("lists", n=n, listed=listed)
    server.measure("watch", n=n, watchers=watchers)
    server.measure("apply", "policy", "webhook", n=n, c="1,16")
    if ours:
        server.measure("probe", n=n)
    before = settled(server)
    with server.begin("hold", n=n, watchers=watchers) as holding:
        held = server.read(holding)
        sizes["memory of a watcher"] = (settled(server) - before) * 1024 / held
        if ours:
            server.measure("probe", n=n, tag=f", {held:,} watchers elsewhere")
        holding.communicate("\n")
    if ours:
        server.measure("namespaces", "probe", n=n, watchers=watchers, tag=f", {held:,} namespaces")
    before = settled(server)
    server.measure("crds", n=n, objects=objects)
    sizes["memory of a custom kind"] = (settled(server, 15) - before) * 1024 / kinds
    server.measure("custom", n=n, c="1,16")
    if ours:
        server.measure("probe", n=n, tag=f", {kinds:,} custom kinds")
    server.measure("fill", n=n, objects=objects)
    sizes[f"memory, {objects:,} ConfigMaps of 1 kB"] = settled(server) / 1
    server.measure("large", n=n, objects=objects)
    if ours:
        server.measure("probe", n=n, tag=f", {objects:,} objects elsewhere")
    return sizes


def compare(row, ours, theirs):
    """Prints a row for each measurement."""
    for name, found in ours.items():
        if name.startswith("probe"):
            continue
        _, times, by = next(rule for rule in MUST if name.startswith(rule[0]))
        value = f"{found['rate']:,.0f}/s" if by == "rate" else f"{by[:3]} {found[by]:.2f} ms"
        note = f"p50 {found['p50_ms']:.2f} p99 {found['p99_ms']:.2f} ms" + (f", {found['fails']} FAILED" if found["fails"] else "")
        must = ""
        if peer := theirs.get(name):
            ratio = found[by] / peer[by] if by == "rate" else peer[by] / found[by]
            must = f"{times}×"
            upstream = f"{peer['rate']:,.0f}/s" if by == "rate" else f"{peer[by]:.2f} ms"
            note = f"{ratio:.1f}×{'' if ratio >= times else ' MISSED'}; upstream {upstream}; {note}"
        row(name, value, must, note)


def compare_sizes(row, ours, theirs):
    for name, size in ours.items():
        unit = "MB" if name.startswith("memory,") else "kB"
        peer = theirs.get(name)
        note = f"1/{peer / size:.1f}{'' if peer / size >= 8 else ' MISSED'}; upstream {peer:.1f} {unit}" if peer and size > 0 else ""
        row(name, f"{size:.1f} {unit}", "1/8" if peer else "", note)


def growth(row, ours):
    """How much longer the probe takes next to much else."""
    base = {name: found["p50_ms"] for name, found in ours.items() if re.fullmatch(r"probe: [\w ]+", name)}
    for tag in dict.fromkeys(name.partition(", ")[2] for name in ours if name.startswith("probe") and ", " in name):
        slower = {what: ours[f"{what}, {tag}"]["p50_ms"] / median for what, median in base.items()}
        worst = max(slower.values())
        note = ", ".join(f"{what.removeprefix('probe: ')} {times:.2f}" for what, times in slower.items())
        row(f"growth: times as slow, {tag}", f"{worst:.2f}", f"{GROWTH_MUST}", note + ("" if worst <= GROWTH_MUST else " MISSED"))


def peer(wait, quick):
    """Measures upstream's control plane; its rows and sizes."""
    folder = tempfile.mkdtemp(prefix="kijabi-peer.")
    log = open(f"{folder}/out", "w+")
    process = subprocess.Popen([HERE.parent / "conformance/peer", folder, str(PEER_PORT)], stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        def up():
            "upstream's control plane, to come up,"
            if process.poll() is not None:
                sys.exit(f"bench: the peer ended: {pathlib.Path(f'{folder}/out').read_text()}")
            return "kubeconfig:" in pathlib.Path(f"{folder}/out").read_text()
        wait(180, up, 0.2)
        print("  " + "\n  ".join(pathlib.Path(f"{folder}/out").read_text().splitlines()))
        files = {"ca": f"{folder}/ca.crt", "crt": f"{folder}/admin.crt", "key": f"{folder}/admin.key"}
        server = Server(f"https://127.0.0.1:{PEER_PORT}", files, control_plane(process.pid))
        return server.rows, phases(server, quick, ours=False)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def control_plane(group):
    """What does upstream's work of an API server: kube-apiserver and etcd."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(entry.name)) == group and (entry / "comm").read_text().strip() in ("kube-apiserver", "etcd"):
                found.append(int(entry.name))
        except OSError:
            pass
    return found
