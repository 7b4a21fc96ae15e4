//! What the runtime has of one pod.

use cri::{ContainerState, ContainerStatus, PodSandboxState, PodSandboxStatus};

/// Nanoseconds since 1970.
pub fn now_ns() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// The sandboxes and containers of one pod, each list newest first.
#[derive(Clone, Debug, Default)]
pub struct View {
    sandboxes: Vec<PodSandboxStatus>,
    containers: Vec<ContainerStatus>,
}

impl View {
    /// From what the runtime lists.
    pub fn new(sandboxes: Vec<PodSandboxStatus>, containers: Vec<ContainerStatus>) -> View {
        let mut view = View { sandboxes, containers };
        view.sort();
        view
    }

    fn sort(&mut self) {
        self.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.metadata.attempt, s.created_at_ns)));
        self.containers.sort_by_key(|c| std::cmp::Reverse((c.metadata.attempt, c.created_at_ns)));
    }

    /// Takes in a state of a sandbox. What is known to have ended stays so: word of a start may arrive after that of the end.
    pub fn put_sandbox(&mut self, sandbox: PodSandboxStatus) {
        if sandbox.state == PodSandboxState::Ready
            && self.sandboxes.iter().any(|s| s.id == sandbox.id && s.state == PodSandboxState::NotReady)
        {
            return;
        }
        self.sandboxes.retain(|s| s.id != sandbox.id);
        self.sandboxes.push(sandbox);
        self.sort();
    }

    /// Takes in a state of a container; as with sandboxes, an end stays.
    pub fn put_container(&mut self, container: ContainerStatus) {
        if container.state != ContainerState::Exited
            && self.containers.iter().any(|c| c.id == container.id && c.state == ContainerState::Exited)
        {
            return;
        }
        self.containers.retain(|c| c.id != container.id);
        self.containers.push(container);
        self.sort();
    }

    /// Forgets a sandbox or container and, with a sandbox, its containers.
    pub fn forget(&mut self, id: &str) {
        self.sandboxes.retain(|s| s.id != id);
        self.containers.retain(|c| c.id != id && c.pod_sandbox_id != id);
    }

    /// All sandboxes.
    pub fn sandboxes(&self) -> &[PodSandboxStatus] {
        &self.sandboxes
    }

    /// All containers.
    pub fn containers(&self) -> &[ContainerStatus] {
        &self.containers
    }

    /// The newest sandbox.
    pub fn sandbox(&self) -> Option<&PodSandboxStatus> {
        self.sandboxes.first()
    }

    /// The newest sandbox when it is fit for containers.
    pub fn ready_sandbox(&self, host_network: bool) -> Option<&PodSandboxStatus> {
        self.sandbox().filter(|s| s.state == PodSandboxState::Ready && (host_network || !s.ips.is_empty()))
    }

    /// The newest container of that name.
    pub fn latest(&self, name: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|c| c.metadata.name == name)
    }

    /// The containers of that name, newest first.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ContainerStatus> {
        self.containers.iter().filter(move |c| c.metadata.name == name)
    }

    /// The container with that id.
    pub fn container(&self, id: &str) -> Option<&ContainerStatus> {
        self.containers.iter().find(|c| c.id == id)
    }

    /// Containers that have, or may have, a process, or could get one.
    pub fn alive(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.iter().filter(|c| c.state != ContainerState::Exited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_stays_though_word_of_the_start_comes_later() {
        use ContainerState::{Created, Exited, Running};
        for (states, want) in [
            (&[Created, Running, Exited][..], Exited),
            (&[Exited, Running], Exited),
            (&[Created, Exited, Created], Exited),
            (&[Created, Running], Running),
        ] {
            let mut view = View::default();
            for state in states {
                view.put_container(ContainerStatus { id: "c".into(), state: *state, ..ContainerStatus::default() });
            }
            assert_eq!(view.containers().iter().map(|c| c.state).collect::<Vec<_>>(), [want], "{states:?}");
        }
        let mut view = View::default();
        for state in [PodSandboxState::Ready, PodSandboxState::NotReady, PodSandboxState::Ready] {
            view.put_sandbox(PodSandboxStatus { id: "s".into(), state, ..PodSandboxStatus::default() });
        }
        assert_eq!(view.sandboxes()[0].state, PodSandboxState::NotReady);
    }
}
