//! Pods on a real kernel: needs root.

mod fixture;
use cri::{ContainerState, PodSandboxState, RuntimeService};
use fixture::Node;

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
