//! Pods on a real kernel: needs root.

mod fixture;
use cri::{ContainerState, PodSandboxState, RuntimeService, StreamOptions};
use fixture::Node;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_a_container_with_log_and_exit_code() {
    let node = Node::open(1).await;
    let pod = node.pod("one").await;
    let status = node.sandbox.pod_sandbox_status(&pod).await.unwrap();
    assert_eq!((status.state, status.ips.len()), (PodSandboxState::Ready, 1));
    let (status, log) =
        node.finish(&pod, node.config("c", "echo $FROM $HOSTNAME; echo bad >&2; ip addr; exit 3")).await;
    println!("{log}");
    assert_eq!((status.state, status.exit_code, status.reason.as_str()), (ContainerState::Exited, 3, "Error"));
    assert!(log.contains("stdout F image one\n") && log.contains("stderr F bad\n"), "{log}");
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_run_in_a_container() {
    let node = Node::open(2).await;
    let pod = node.pod("two").await;
    let id = node.run(&pod, node.config("c", "exec sleep 1000")).await;
    let command = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
    let result = node.sandbox.exec_sync(&id, &command("echo out; echo err >&2; exit 4"), None).await.unwrap();
    assert_eq!(
        (result.exit_code, result.stdout.as_slice(), result.stderr.as_slice()),
        (4, &b"out\n"[..], &b"err\n"[..])
    );

    let late = node.sandbox.exec_sync(&id, &command("sleep 100"), Some(Duration::from_millis(200))).await;
    assert!(matches!(late, Err(cri::Error::DeadlineExceeded(_))), "{late:?}");
    for (command, text) in [
        (vec!["nowhere".to_owned()], "exec: \"nowhere\": executable file not found in $PATH"),
        (vec!["/no/where".to_owned()], "exec: \"/no/where\": stat /no/where: no such file or directory"),
        (vec!["/bin/not-executable".to_owned()], "exec: \"/bin/not-executable\": permission denied"),
        (vec!["/bin".to_owned()], "exec: \"/bin\": is a directory"),
    ] {
        let error = node.sandbox.exec_sync(&id, &command, None).await.unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    }

    let options = StreamOptions { stdin: true, stdout: true, stderr: true, tty: false };
    let streams = node.sandbox.exec(&id, &command("cat; echo done >&2"), options).await.unwrap();
    let (mut stdin, mut stdout) = (streams.stdin.unwrap(), streams.stdout.unwrap());
    stdin.write_all(b"hello").await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let mut text = String::new();
    stdout.read_to_string(&mut text).await.unwrap();
    streams.stderr.unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hellodone\n");
    assert_eq!(streams.exit.await.unwrap().unwrap(), 0);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_size_and_an_end() {
    let node = Node::open(3).await;
    let pod = node.pod("three").await;
    let id = node.run(&pod, node.config("c", "exec sleep 1000")).await;
    let options = StreamOptions { stdin: true, stdout: true, stderr: false, tty: true };
    // The size takes another way than what is typed: the shell waits for it.
    let script = "read go; tty; for i in $(seq 500); do [ \"$(stty size)\" = '44 99' ] && break; sleep 0.01; done; stty size; exit 5";
    let command = ["sh", "-c", script].map(str::to_owned);
    let streams = node.sandbox.exec(&id, &command, options).await.unwrap();
    streams.resize.send(cri::TerminalSize { width: 99, height: 44 }).await.unwrap();
    let (mut stdin, mut stdout) = (streams.stdin.unwrap(), streams.stdout.unwrap());
    stdin.write_all(b"go\n").await.unwrap();
    let mut text = String::new();
    stdout.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("/dev/pts/0") && text.contains("44 99"), "{text}");
    assert_eq!(streams.exit.await.unwrap().unwrap(), 5);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_reaches_the_first_process() {
    let node = Node::open(4).await;
    let pod = node.pod("four").await;
    for tty in [false, true] {
        let mut config =
            node.config(if tty { "t" } else { "p" }, "read line; echo got $line; read more; echo end; exit 6");
        (config.stdin, config.stdin_once, config.tty) = (true, true, tty);
        let mut events = node.sandbox.events();
        let id = node.run(&pod, config).await;
        let options = StreamOptions { stdin: true, stdout: true, stderr: !tty, tty };
        let streams = node.sandbox.attach(&id, options).await.unwrap();
        let (mut stdin, mut stdout) = (streams.stdin.unwrap(), streams.stdout.unwrap());
        stdin.write_all(b"abc\n").await.unwrap();
        let mut text = [0; 64];
        let mut read = 0;
        while !String::from_utf8_lossy(&text[..read]).contains("got abc") {
            read += stdout.read(&mut text[read..]).await.unwrap();
        }
        if tty {
            stdin.write_all(b"x\n").await.unwrap();
        } else {
            drop(stdin);
        }
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).await.unwrap();
        assert!(rest.contains("end"), "{rest}");
        assert_eq!(streams.exit.await.unwrap().unwrap(), 6);
        let status = node.wait(&mut events, &id).await;
        assert!(node.log(&status).contains("stdout F got abc"), "{}", node.log(&status));
    }
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_outlive_the_program() {
    let node = Node::open(5).await;
    let pod = node.pod("five").await;
    let script = "trap 'echo stopping; exit 8' TERM; echo up; while true; do sleep 0.1; done";
    let lasting = node.run(&pod, node.config("lasting", script)).await;
    let mut short = node.config("short", "while [ ! -e /shared/go ]; do sleep 0.02; done; exit 9");
    let shared = node.path().join("shared");
    short.mounts = vec![cri::Mount { container_path: "/shared".into(), host_path: shared, ..cri::Mount::default() }];
    let short = node.run(&pod, short).await;
    let process = format!("/proc/{}", node.sandbox.container_status(&short).await.unwrap().pid);
    let made = node.sandbox.create_container(&pod, node.config("made", "exit 0")).await.unwrap();
    let before = node.sandbox.container_status(&lasting).await.unwrap();
    // One ends while no program is there to see it.
    let node = node.reopen(|dir| {
        std::fs::write(dir.join("shared/go"), "").unwrap();
        let end = std::time::Instant::now() + fixture::PATIENCE;
        while std::path::Path::new(&process).exists() {
            assert!(std::time::Instant::now() < end, "it ends in time");
            std::thread::yield_now();
        }
    });
    let node = node.await;
    let after = node.sandbox.container_status(&lasting).await.unwrap();
    assert_eq!(after, before, "an adopted container is as it was");
    assert_eq!(node.sandbox.pod_sandbox_status(&pod).await.unwrap().state, PodSandboxState::Ready);
    let ended = node.sandbox.container_status(&short).await.unwrap();
    assert_eq!((ended.state, ended.exit_code), (ContainerState::Exited, 9));
    assert_eq!(node.sandbox.container_status(&made).await.unwrap().state, ContainerState::Created);
    let result = node.sandbox.exec_sync(&lasting, &["echo".to_owned(), "still".to_owned()], None).await.unwrap();
    assert_eq!(result.stdout, b"still\n");
    node.sandbox.stop_container(&lasting, Duration::from_secs(10)).await.unwrap();
    let stopped = node.sandbox.container_status(&lasting).await.unwrap();
    assert_eq!(stopped.exit_code, 8);
    assert!(node.log(&stopped).contains("stopping"));
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reboot_ended_is_reported_so() {
    let node = Node::open(6).await;
    let pod = node.pod("six").await;
    let mut events = node.sandbox.events();
    let id = node.run(&pod, node.config("c", "exec sleep 1000")).await;
    let status = node.sandbox.container_status(&id).await.unwrap();
    // The shim is killed: its containers go with it.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", status.pid)).unwrap();
    let shim: i32 = stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(shim).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    let lost = node.wait(&mut events, &id).await;
    assert_eq!((lost.state, lost.exit_code), (ContainerState::Exited, 137));
    let node = node.reopen(|_| {}).await;
    assert_eq!(node.sandbox.pod_sandbox_status(&pod).await.unwrap().state, PodSandboxState::NotReady);
    assert_eq!(node.sandbox.container_status(&id).await.unwrap().state, ContainerState::Exited);
    let again = node.pod("six").await;
    let (status, _) = node.finish(&again, node.config("c2", "exit 0")).await;
    assert_eq!(status.reason, "Completed");
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_missing_is_named() {
    let node = Node::open(7).await;
    let pod = node.pod("seven").await;
    for (command, code, text) in [
        ("nowhere", 127, "exec: \"nowhere\": executable file not found in $PATH: unknown"),
        ("/bin/not-executable", 126, "exec: \"/bin/not-executable\": permission denied"),
    ] {
        let config = cri::ContainerConfig { command: vec![command.to_owned()], ..node.config("c", "") };
        let id = node.sandbox.create_container(&pod, config).await.unwrap();
        let error = node.sandbox.start_container(&id).await.unwrap_err().to_string();
        assert!(error.starts_with("OCI runtime create failed") && error.contains(text), "{error}");
        let status = node.sandbox.container_status(&id).await.unwrap();
        assert_eq!((status.exit_code, status.reason.as_str()), (code, "ContainerCannotRun"));
        assert_eq!((status.state, status.message), (ContainerState::Exited, error));
    }
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_processes_are_limited() {
    let node = Node::open(8).await;
    let pod = node.pod("eight").await;
    let mut eats = node.config("eats", "dd if=/dev/zero of=/dev/null bs=200M count=1");
    eats.resources.memory_limit_bytes = 32 << 20;
    let (status, _) = node.finish(&pod, eats).await;
    assert_eq!((status.reason.as_str(), status.exit_code), ("OOMKilled", 137));
    // A fork bomb meets its limit, and dies at once when stopped.
    let mut bomb = node.config("bomb", "f() { f | f & }; f; exec sleep 1000");
    bomb.resources.pids_limit = 64;
    let id = node.run(&pod, bomb).await;
    node.sandbox.stop_container(&id, Duration::ZERO).await.unwrap();
    assert_eq!(node.sandbox.container_status(&id).await.unwrap().exit_code, 137);
    let id = node.run(&pod, node.config("idle", "exec sleep 1000")).await;
    let stats = node.sandbox.container_stats(&id).await.unwrap();
    assert!(stats.pids == 1 && stats.cpu_usage_ns > 0 && stats.memory_working_set_bytes > 0, "{stats:?}");
    node.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_inside_are_reached() {
    let node = Node::open(9).await;
    let pod = node.pod("nine").await;
    let mut events = node.sandbox.events();
    let id = node.run(&pod, node.config("c", "echo hi | nc -l -p 8080")).await;
    let mut stream = loop {
        match node.sandbox.port_forward(&pod, 8080).await {
            Ok(stream) => break stream,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hi\n");
    drop(stream);
    node.wait(&mut events, &id).await;
    assert!(node.sandbox.port_forward(&pod, 8081).await.is_err());
    node.close().await;
}
