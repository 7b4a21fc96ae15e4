//! Reading fields of a JSON object by dotted path; what is missing reads as null, empty or zero.

use serde_json::Value;

/// Reading by path. Field names with dots in them cannot be named this way.
pub(crate) trait Look {
    /// The value at a path, null when there is none.
    fn at(&self, path: &str) -> &Value;

    /// The text at a path, empty when there is none.
    fn text(&self, path: &str) -> &str {
        self.at(path).as_str().unwrap_or_default()
    }

    /// The integer at a path, zero when there is none.
    fn int(&self, path: &str) -> i64 {
        self.at(path).as_i64().unwrap_or_default()
    }

    /// The flag at a path, false when there is none.
    fn flag(&self, path: &str) -> bool {
        self.at(path).as_bool().unwrap_or_default()
    }

    /// The list at a path, empty when there is none.
    fn items(&self, path: &str) -> &[Value] {
        self.at(path).as_array().map(Vec::as_slice).unwrap_or_default()
    }

    /// The entries of the map at a path.
    fn entries(&self, path: &str) -> impl Iterator<Item = (&String, &Value)> {
        self.at(path).as_object().into_iter().flatten()
    }

    /// Whether there is something other than null at a path.
    fn has(&self, path: &str) -> bool {
        !self.at(path).is_null()
    }
}

impl Look for Value {
    fn at(&self, path: &str) -> &Value {
        if path.is_empty() {
            return self;
        }
        path.split('.').try_fold(self, |value, name| value.get(name)).unwrap_or(&Value::Null)
    }
}
