//! Through the API server to a kubelet: logs, exec, port-forward, proxies.
#![allow(clippy::unwrap_used, reason = "a test may fail by it")]

mod node;

use futures::{SinkExt, StreamExt};
use http::Request;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use node::{Cluster, start};
use serve::websocket::Message;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(20);

async fn get(cluster: &Cluster, path: &str) -> (u16, String) {
    let request = Request::get(format!("https://{}{path}", cluster.address)).body(serve::empty()).unwrap();
    let response = cluster.client().send(request).await.unwrap();
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8(body.to_vec()).unwrap())
}

type Socket = tokio_tungstenite::WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

async fn dial(cluster: &Cluster, path: &str, protocol: &str) -> Result<Socket, (u16, String)> {
    let request = Request::get(format!("https://{}{path}", cluster.address))
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", protocol)
        .body(serve::empty())
        .unwrap();
    let mut response = cluster.client().send(request).await.unwrap();
    if response.status() != 101 {
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        return Err((code, String::from_utf8(body.to_vec()).unwrap()));
    }
    assert_eq!(Cluster::headers(&response)["sec-websocket-protocol"], protocol);
    let io = TokioIo::new(hyper::upgrade::on(&mut response).await.unwrap());
    let role = tokio_tungstenite::tungstenite::protocol::Role::Client;
    Ok(tokio_tungstenite::WebSocketStream::from_raw_socket(io, role, None).await)
}

/// What comes on each channel until the end.
async fn collect(socket: &mut Socket) -> [String; 4] {
    let mut channels: [Vec<u8>; 4] = Default::default();
    let all = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Binary(bytes) = message {
                channels[usize::from(bytes[0])].extend_from_slice(&bytes[1..]);
            }
        }
    };
    tokio::time::timeout(DEADLINE, all).await.expect("the session ends");
    channels.map(|channel| String::from_utf8(channel).unwrap())
}

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn logs() {
    let cluster = start().await;
    for (path, code, body) in [
        ("one/log", 200, "log of default/one/a?\n"),
        ("two/log?container=b&follow=true&tailLines=3", 200, "log of default/two/b?follow=true&tailLines=3\n"),
        ("two/log?container=broken", 404, "no such container here"),
    ] {
        let (got, answer) = get(&cluster, &format!("{PODS}/{path}")).await;
        assert_eq!(got, code, "{path}: {answer}");
        assert!(answer.contains(body), "{answer}");
    }
    let mut socket = dial(&cluster, &format!("{PODS}/one/log"), "binary.k8s.io").await.unwrap();
    let message = tokio::time::timeout(DEADLINE, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(message.into_data(), "log of default/one/a?\n");
}

#[tokio::test]
async fn exec() {
    let cluster = start().await;
    let path = format!("{PODS}/one/exec?command=sh&command=-c&stdin=true&stdout=true&stderr=true&command=");
    let cases = [
        ("echo%20out%3B%20echo%20err%20%3E%262", "out\n", "err\n", r#""status":"Success""#),
        ("exit%209", "", "", r#"{"message":"9","reason":"ExitCode"}"#),
        ("cat", "typed", "", r#""status":"Success""#),
    ];
    for (command, out, err, status) in cases {
        let mut socket = dial(&cluster, &format!("{path}{command}"), "v5.channel.k8s.io").await.unwrap();
        for message in [&b"\0typed"[..], b"\xff\0"] {
            socket.send(Message::binary(message.to_vec())).await.unwrap();
        }
        let [_, stdout, stderr, end] = collect(&mut socket).await;
        assert_eq!((stdout.as_str(), stderr.as_str()), (out, err), "{command}");
        assert!(end.contains(status), "{command}: {end}");
    }
    let mut missing = dial(&cluster, &format!("{PODS}/one/exec?command=/nowhere"), "v5.channel.k8s.io").await.unwrap();
    assert!(collect(&mut missing).await[3].contains(r#"Internal error occurred: exec \"/nowhere\""#));
    let (code, answer) = dial(&cluster, &format!("{PODS}/one/exec?command=ls"), "v1.wrong").await.unwrap_err();
    assert_eq!(code, 400, "{answer}");
    let (code, answer) = get(&cluster, &format!("{PODS}/one/exec?command=ls")).await;
    assert_eq!(code, 400);
    assert!(answer.contains("Upgrade request required"), "{answer}");
}

#[tokio::test]
async fn node_proxy() {
    let cluster = start().await;
    for (path, code, body) in [
        ("/api/v1/nodes/n1/proxy/metrics/x?a=b%20c", 200, "GET /metrics/x?a=b%20c"),
        ("/api/v1/nodes/n1/proxy/", 200, "GET /"),
        ("/api/v1/nodes/n1/proxy", 301, ""),
        ("/api/v1/nodes/n1:1/proxy/", 400, "address not allowed"),
        ("/api/v1/nodes/n2/proxy/", 404, "nodes \\\"n2\\\" not found"),
    ] {
        let (got, answer) = get(&cluster, path).await;
        assert_eq!(got, code, "{path}: {answer}");
        assert!(answer.contains(body), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_proxy_follows_nothing_and_keeps_what_proves_who_asks() {
    let cluster = start().await;
    let (code, _) = get(&cluster, "/api/v1/nodes/n1/proxy/redirect").await;
    assert_eq!(code, 302, "where it leads is the client's business");
    let request = Request::get(format!("https://{}/api/v1/nodes/n1/proxy/headers", cluster.address))
        .header("authorization", "Bearer secret")
        .header("impersonate-user", "kubernetes-admin")
        .header("impersonate-group", "system:masters")
        .header("impersonate-extra-x", "secret")
        .header("proxy-authorization", "secret")
        .header("x-secret", "secret")
        .header("connection", "x-secret")
        .header("x-other", "goes on");
    let response = cluster.client().send(request.body(serve::empty()).unwrap()).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let headers = String::from_utf8(body.to_vec()).unwrap();
    assert!(headers.contains("x-other: \"goes on\""), "{headers}");
    for kept in ["authorization", "impersonate", "secret"] {
        assert!(!headers.contains(kept), "{kept} went on: {headers}");
    }
}
