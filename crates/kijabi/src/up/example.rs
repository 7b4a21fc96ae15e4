//! `up --hello`: the hello example, from its image to an answer over HTTP.

use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use client::Client;
use image::{File, RunConfig};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, PostParams};
use kube::runtime::wait::await_condition;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The objects, as users may apply them themselves.
const MANIFEST: &str = include_str!("../../../../examples/hello.yaml");
const IMAGE: &str = "kijabi.local/hello:1";
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes the image out of this very program, applies the objects, waits, asks over HTTP, and says what to try next.
pub(super) async fn run(
    images: &Arc<image::Store>,
    client: &Client,
    progress: Progress,
    kubeconfig: &str,
) -> Result<()> {
    let program = Bytes::from(tokio::fs::read("/proc/self/exe").await.context("cannot read this program")?);
    let file = File { path: "/kijabi".to_owned(), contents: program, mode: 0o755 };
    let config = RunConfig { entrypoint: vec!["/kijabi".to_owned(), "hello".to_owned()], ..RunConfig::default() };
    images.add_image_from_files(IMAGE, vec![file], config).await.map_err(|e| anyhow::anyhow!("{}", e.chain()))?;
    progress.step(format_args!("made the image {IMAGE}: it holds nothing but this program"));
    let (deployment, service) = objects()?;
    create(&Api::<Deployment>::namespaced(client.clone(), "default"), &deployment).await?;
    create(&Api::<Service>::namespaced(client.clone(), "default"), &service).await?;
    progress.step("applied examples/hello.yaml: a Deployment and a Service");
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), "default");
    let available = |d: Option<&Deployment>| {
        d.and_then(|d| Some(d.status.as_ref()?.available_replicas? >= d.spec.replicas?)).unwrap_or(false)
    };
    let waiting = await_condition(deployments, "hello", available);
    tokio::time::timeout(READY_TIMEOUT, waiting)
        .await
        .context("the hello example did not become ready in time; see `kubectl describe pods`")??;
    progress.step("its pods are ready");
    let service = Api::<Service>::namespaced(client.clone(), "default").get("hello").await?;
    let ip = service.spec.and_then(|s| s.cluster_ip).context("the Service has no address")?;
    let answer = ask(&ip).await?;
    progress.step(format_args!("http://{ip}/ answers: {}", answer.trim()));
    Progress::say(format_args!(
        "\nThe cluster is up. Next:\n\n  export KUBECONFIG={kubeconfig}\n  kubectl get pods -o wide\n  kubectl logs -l app=hello\n  kubectl scale deployment/hello --replicas=5\n  curl http://{ip}/"
    ));
    Ok(())
}

fn objects() -> Result<(Deployment, Service)> {
    let mut parts = MANIFEST.split("\n---\n");
    let (deployment, service) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let deployment = serde_saphyr::from_str(deployment).map_err(|e| anyhow::anyhow!("examples/hello.yaml: {e}"))?;
    let service = serde_saphyr::from_str(service).map_err(|e| anyhow::anyhow!("examples/hello.yaml: {e}"))?;
    Ok((deployment, service))
}

/// Creates an object; one that is there from an earlier run stays.
async fn create<K>(api: &Api<K>, object: &K) -> Result<()>
where
    K: Clone + serde::de::DeserializeOwned + serde::Serialize + std::fmt::Debug,
{
    match api.create(&PostParams::default(), object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error).context("cannot apply the hello example"),
    }
}

/// One request to the Service; its rules may be a moment behind the pods, so a refusal is asked again.
async fn ask(ip: &str) -> Result<String> {
    let mut last = String::new();
    for _ in 0..100 {
        match tokio::time::timeout(Duration::from_secs(5), http_get(ip)).await {
            Ok(Ok(body)) if !body.is_empty() => return Ok(body),
            Ok(Ok(_)) => "an empty answer".clone_into(&mut last),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => "no answer in 5 s".clone_into(&mut last),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("the hello example does not answer at http://{ip}/: {last}")
}

async fn http_get(ip: &str) -> std::io::Result<String> {
    let mut stream = tokio::net::TcpStream::connect((ip, 80)).await?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {ip}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}
