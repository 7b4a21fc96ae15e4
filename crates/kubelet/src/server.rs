//! The kubelet's HTTPS server. (Being written.)

use crate::config::Server;
use crate::context::Shared;
use crate::directory::Directory;

/// Serves until the kubelet ends.
pub async fn run(server: Server, context: Shared, directory: Directory) {
    let _ = (server, directory);
    context.token.cancelled().await;
}
