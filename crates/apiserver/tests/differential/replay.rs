//! Asks the cases of the golden files of a server in this process.

use crate::answer::{brief, difference, expanded, marked};
use crate::secured::{self, Secured};
use apiserver::alloc::ServiceRange;
use apiserver::context::UserInfo;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

/// What a case came to.
pub(crate) struct Outcome {
    /// `pods/full create /spec/hostname`, a tab, and the change: `removed` or the new value.
    pub(crate) id: String,
    theirs: Value,
    ours: Value,
}

impl Outcome {
    /// Whether the answers differ.
    pub(crate) fn differs(&self) -> bool {
        self.theirs != self.ours
    }

    /// The case and what differs, for the eye; nothing when the answers are the same.
    pub(crate) fn shown(&self) -> String {
        if !self.differs() {
            return String::new();
        }
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        if let (Some(_), Some(_)) = (self.theirs.get("object"), self.ours.get("object")) {
            difference(&self.ours, &self.theirs, "", &mut theirs);
            difference(&self.theirs, &self.ours, "", &mut ours);
        } else {
            theirs.push(self.theirs.clone());
            ours.push(self.ours.clone());
        }
        let lines = |list: Vec<Value>| list.iter().map(Value::to_string).collect::<Vec<_>>().join("\n           ");
        format!("{}\n    theirs {}\n    ours   {}\n", self.id, lines(theirs), lines(ours))
    }
}

/// A base with one way of writing it, and the changes tried with it.
struct Phase {
    header: Value,
    cases: Vec<(String, Option<Value>, Value)>,
}

fn phases(text: &str) -> Vec<Phase> {
    let mut phases: Vec<Phase> = Vec::new();
    for line in text.lines() {
        match serde_json::from_str(line).unwrap() {
            Value::Array(case) => {
                // Changes are sent whole; answers stay as they are written.
                let change: Value = serde_json::from_str(&expanded(&json!([case[0], case[1]]).to_string())).unwrap();
                let at = change[0].as_str().unwrap().to_owned();
                let phase = phases.last_mut().expect("a base before its changes");
                phase.cases.push((at, change[1].get(0).cloned(), case[2].clone()));
            }
            header => phases.push(Phase { header, cases: Vec::new() }),
        }
    }
    phases
}

/// Asks everything; with `only`, no more than the bases whose identifiers begin so, or are the beginning of it.
pub(crate) async fn all(only: Option<&str>) -> BTreeMap<String, Vec<Outcome>> {
    let services = ServiceRange { network: Ipv4Addr::new(10, 96, 0, 0), prefix: 16, node_ports: (30_000, 32_767) };
    let server = Arc::new(Asked { secured: secured::start_with(services).await });
    let golden = crate::folder().join("golden");
    for line in std::fs::read_to_string(golden.join("setup.jsonl")).unwrap().lines() {
        let step: Value = serde_json::from_str(line).unwrap();
        let (code, _, answer) = server.send("POST", step["path"].as_str().unwrap(), &step["object"]).await;
        assert!(code < 300, "{answer}");
    }
    let mut groups = BTreeMap::new();
    let mut files: Vec<_> = std::fs::read_dir(&golden).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.file_stem().unwrap() != "setup") {
        let group = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let outcomes = groups.entry(group).or_insert_with(Vec::new);
        let mut base = Base::default();
        for phase in phases(&std::fs::read_to_string(file).unwrap()) {
            base.enter(&phase.header, &server).await;
            let id = phase.header["base"].as_str().unwrap();
            if only.is_none_or(|only| only.starts_with(id) || id.starts_with(only)) {
                outcomes.extend(run(&server, &base, phase).await);
            }
        }
    }
    groups
}

/// The object that is being written.
#[derive(Default)]
struct Base {
    /// As the case gives it.
    given: Value,
    /// As it is sent before a change.
    sent: Value,
    path: String,
}

impl Base {
    async fn enter(&mut self, header: &Value, server: &Asked) {
        let path = header["path"].as_str().unwrap().to_owned();
        match header["phase"].as_str().unwrap() {
            "create" | "request" => {
                self.given = header["object"].clone();
                self.sent = self.given.clone();
            }
            "update" => {
                // Made now, for this phase and the next ones.
                server.send("POST", &self.path, &self.given).await;
                let mut answer = server.settled(&path).await;
                if let Some(metadata) = answer["metadata"].as_object_mut() {
                    metadata.remove("managedFields");
                }
                self.sent = answer;
            }
            _ => self.sent["status"] = header["status"].clone(),
        }
        self.path = path;
    }
}

async fn run(server: &Arc<Asked>, base: &Base, phase: Phase) -> Vec<Outcome> {
    let header = Arc::new(phase.header);
    let label = format!("{} {}", header["base"].as_str().unwrap(), header["phase"].as_str().unwrap());
    let ask = Arc::new(Ask { given: base.given.to_string(), header: header.clone() });
    let first = server.ask(&ask, &base.sent, "").await;
    let mut outcomes =
        vec![Outcome { id: format!("{label}\tbase"), theirs: header["answer"].clone(), ours: first.clone() }];
    let base_object = Arc::new(first["object"].clone());
    let tasks = phase.cases.into_iter().map(|(at, to, theirs)| {
        let (server, ask, base_object) = (server.clone(), ask.clone(), base_object.clone());
        let body = changed(&base.sent, &at, to.as_ref());
        let told = to.as_ref().map_or("removed".to_owned(), short);
        let id = format!("{label} {}\t{told}", marked(&at));
        tokio::spawn(async move {
            let asking = ask.clone();
            let ours =
                tokio::spawn(async move { server.ask(&asking, &body, &to.unwrap_or_default().to_string()).await });
            let ours = ours.await.unwrap_or_else(|error| json!({"code": 0, "panic": error.to_string()}));
            Outcome { id, theirs: filled(theirs, &ask.header["answer"]), ours: relative(ours, &base_object) }
        })
    });
    outcomes.extend(stream::iter(tasks).buffered(16).map(Result::unwrap).collect::<Vec<_>>().await);
    outcomes
}

/// A value as a change is called by it.
fn short(value: &Value) -> String {
    let text = marked(&value.to_string());
    if text.chars().count() <= 60 { text } else { text.chars().take(57).collect::<String>() + "..." }
}

/// An answer of upstream's with what it shares with that to the base.
fn filled(mut theirs: Value, first: &Value) -> Value {
    if theirs.get("code").is_none() {
        theirs["code"] = first["code"].clone();
    }
    if theirs.get("warnings").is_none() {
        if let Some(warnings) = first.get("warnings") {
            theirs["warnings"] = warnings.clone();
        }
    } else if theirs["warnings"] == json!([]) {
        theirs.as_object_mut().unwrap().remove("warnings");
    }
    theirs
}

/// An answer of ours with what differs from that to the base.
fn relative(mut ours: Value, base: &Value) -> Value {
    if let Some(object) = ours.as_object_mut().unwrap().remove("object") {
        let mut changes = Vec::new();
        difference(base, &object, "", &mut changes);
        ours["changed"] = changes.into();
    }
    ours
}

/// The object with one change; unchanged when there is no such place.
fn changed(object: &Value, at: &str, to: Option<&Value>) -> Value {
    let mut object = object.clone();
    let (above, key) = at.rsplit_once('/').expect("a pointer");
    let key = key.replace("~1", "/").replace("~0", "~");
    match (object.pointer_mut(above), to) {
        (Some(Value::Object(map)), Some(to)) => {
            map.insert(key, to.clone());
        }
        (Some(Value::Object(map)), None) => {
            map.remove(&key);
        }
        (Some(Value::Array(items)), Some(to)) if key == "-" => items.push(to.clone()),
        (Some(Value::Array(items)), to) => {
            let index: usize = key.parse().unwrap();
            match to {
                Some(to) if index < items.len() => items[index] = to.clone(),
                None if index < items.len() => drop(items.remove(index)),
                _ => {}
            }
        }
        _ => {}
    }
    object
}

/// What the questions of a phase share.
struct Ask {
    given: String,
    header: Arc<Value>,
}

struct Asked {
    secured: Secured,
}

impl Asked {
    async fn ask(&self, ask: &Ask, body: &Value, change: &str) -> Value {
        let path = ask.header["path"].as_str().unwrap();
        let dry =
            if path.contains("review") || path.contains("/serviceaccounts/default/token") { "" } else { "&dryRun=All" };
        let (method, query) = (ask.header["method"].as_str().unwrap(), format!("{path}?fieldValidation=Strict{dry}"));
        let answer = self.send(method, &query, body).await;
        let name = body["metadata"]["name"].as_str().unwrap_or_default();
        let name = format!("{} {}", ask.header["kind"].as_str().unwrap(), json!(name));
        brief(answer.0, &answer.1, &answer.2, &format!("{}{change}", ask.given), &name)
    }

    /// The object, after the server's own controllers wrote its status.
    async fn settled(&self, path: &str) -> Value {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let (_, _, answer) = self.send("GET", path, &Value::Null).await;
            let conditions = answer["status"]["conditions"].as_array().map_or(0, Vec::len);
            let settled = match answer["kind"].as_str() {
                Some("CustomResourceDefinition") => conditions >= 2,
                Some("FlowSchema") => conditions >= 1,
                Some("APIService") => conditions >= 1 || answer["spec"]["service"].is_null(),
                Some("ValidatingAdmissionPolicy") => !answer["status"]["observedGeneration"].is_null(),
                _ => true,
            };
            if settled {
                return answer;
            }
            assert!(tokio::time::Instant::now() < deadline, "a status of {path}: {answer}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> (u16, Vec<String>, Value) {
        let groups = vec!["system:masters".to_owned(), "system:authenticated".to_owned()];
        let user = UserInfo { name: "admin".to_owned(), groups, ..UserInfo::default() };
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let request = request.header("user-agent", "differential/1").body(Full::new(bytes)).unwrap();
        let (parts, body) = self.secured.api.service(user).oneshot(request).await.unwrap().into_parts();
        let warnings = parts.headers.get_all("warning").iter().map(|value| value.to_str().unwrap().to_owned());
        let body = body.collect().await.unwrap().to_bytes();
        let text = || json!({"message": String::from_utf8_lossy(&body)});
        (parts.status.as_u16(), warnings.collect(), serde_json::from_slice(&body).unwrap_or_else(|_| text()))
    }
}
