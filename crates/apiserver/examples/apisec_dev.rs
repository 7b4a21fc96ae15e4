//! throwaway
#[path = "../tests/node/mod.rs"]
mod node;
#[tokio::main]
async fn main() {
    let cluster = node::start().await;
    std::fs::write("/tmp/apisec.kubeconfig", cluster.kubeconfig()).unwrap();
    eprintln!("up {}", cluster.address);
    tokio::time::sleep(std::time::Duration::from_secs(900)).await;
}
