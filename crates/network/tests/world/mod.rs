//! A world for tests: a network namespace that plays the node, others that play pods and machines outside.
#![allow(dead_code)]

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use network::netns;

/// The node's address on the link to the outside, and the outside's.
pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// No answer within this is no answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Everything a test makes; it is gone when this is dropped, also when the test fails.
pub(crate) struct World {
    pub(crate) folder: PathBuf,
    namespaces: std::sync::Mutex<Vec<PathBuf>>,
}

impl World {
    /// A world with a node. `name` must be the test's own.
    pub(crate) fn new(name: &str) -> World {
        let folder = std::env::temp_dir().join(format!("kijabi-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let world = World { folder, namespaces: Default::default() };
        world.netns("node");
        world.netns("outside");
        world.inside("node", || {
            ip("link set lo up");
            let outside = world.path("outside");
            ip(&format!("link add out type veth peer name eth0 netns {}", outside.display()));
            ip(&format!("addr add {NODE}/24 dev out"));
            ip("link set out up");
        });
        world.inside("outside", || {
            ip("link set lo up");
            ip(&format!("addr add {OUTSIDE}/24 dev eth0"));
            ip("link set eth0 up");
        });
        world
    }

    /// The file of a namespace.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes a namespace.
    pub(crate) fn netns(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        netns::create(&path).expect("tests of the network need root");
        self.namespaces.lock().unwrap().push(path.clone());
        path
    }

    /// Runs something in a namespace.
    pub(crate) fn inside<T: Send>(&self, name: &str, work: impl FnOnce() -> T + Send) -> T {
        netns::run(&self.path(name), work).unwrap()
    }

    /// Runs something on the node.
    pub(crate) fn on_node<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.inside("node", work)
    }

    /// Starts servers in a namespace that answer with their name and the peer's address: TCP and UDP.
    pub(crate) fn serve(&self, name: &str, port: u16) {
        self.serve_at(name, (Ipv4Addr::UNSPECIFIED, port).into());
    }

    pub(crate) fn serve_at(&self, name: &str, address: SocketAddr) {
        let (tcp, udp) = self.inside(name, || (TcpListener::bind(address).unwrap(), UdpSocket::bind(address).unwrap()));
        let who = name.to_owned();
        thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                let mut stream = stream;
                let peer = stream.peer_addr().unwrap().ip();
                let _ = stream.write_all(format!("{who} {peer}").as_bytes());
            }
        });
        let who = name.to_owned();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(format!("{who} {}", peer.ip()).as_bytes(), peer);
            }
        });
    }

    /// Asks a server by TCP: its answer (name and the peer it saw), or how it failed.
    pub(crate) fn ask(&self, from: &str, to: impl Into<IpAddr>, port: u16) -> Result<String, io::ErrorKind> {
        let to = SocketAddr::new(to.into(), port);
        self.inside(from, || {
            let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok::<_, io::Error>(answer)
        })
        .map_err(|error| error.kind())
    }

    /// Asks a server by UDP.
    pub(crate) fn ask_udp(&self, from: &str, to: impl Into<IpAddr>, port: u16) -> Result<String, io::ErrorKind> {
        let to = SocketAddr::new(to.into(), port);
        self.inside(from, || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(to)?;
            socket.send(b"?")?;
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer)?;
            Ok::<_, io::Error>(String::from_utf8_lossy(&buffer[..length]).into_owned())
        })
        .map_err(|error| error.kind())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for path in self.namespaces.lock().unwrap().iter().rev() {
            let _ = netns::remove(path);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Runs `ip`, which only tests do.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn exists(path: &Path) -> bool {
    path.exists()
}
