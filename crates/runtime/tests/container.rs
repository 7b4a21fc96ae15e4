//! Containers in a real shim: needs root.

mod fixture;
use fixture::Pod;

#[tokio::test]
async fn a_container_runs_with_log_and_exit_code() {
    let mut pod = Pod::start(|_| {}).await;
    let spec = pod.container("one", "echo out; echo err >&2; hostname; echo $$; ls /; exit 7");
    let (code, log) = pod.run(spec).await;
    assert_eq!(code, 7);
    println!("{log}");
    assert!(log.contains("stdout F out\n") && log.contains("stderr F err\n"), "{log}");
}
