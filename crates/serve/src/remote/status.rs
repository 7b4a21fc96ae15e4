//! How an exec or attach ended, as the `Status` that clients read from the error channel.

use bytes::Bytes;
use serde_json::json;

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The process ended with this code.
    Exited(i32),
    /// It could not be run or watched.
    Failed(String),
}

impl Outcome {
    /// A `metav1.Status` in JSON: success, `NonZeroExitCode` with the code among its causes, or an internal error.
    pub fn to_status(&self) -> Bytes {
        let status = match self {
            Self::Exited(0) => json!({"metadata": {}, "status": "Success"}),
            Self::Exited(code) => json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: exit status {code}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(message) => json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("Internal error occurred: {message}"),
                "details": {"causes": [{"message": message}]},
            }),
        };
        Bytes::from(status.to_string())
    }
}
