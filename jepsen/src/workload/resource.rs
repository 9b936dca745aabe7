//! What locks are for: resources that clients read, think about, and write. In the harness's memory,
//! because what is tested is whether the lock keeps writers apart, or its token stale ones out. A
//! guarded resource refuses tokens below the largest it has seen, on reads too; an unguarded one
//! takes everything, and is the control.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// All resources of a run, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resources {
    inner: Arc<Mutex<BTreeMap<String, Resource>>>,
}

#[derive(Clone, Debug, Default)]
struct Resource {
    largest_token: u64,
    value: Option<i64>,
}

/// The token is below one that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StaleToken {
    /// The largest that was seen.
    pub(crate) largest_token: u64,
}

impl Resources {
    fn with<T>(
        &self,
        name: &str,
        token: Option<u64>,
        act: impl FnOnce(&mut Resource) -> T,
    ) -> Result<T, StaleToken> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let resource = inner.entry(name.to_owned()).or_default();
        if let Some(token) = token {
            if token < resource.largest_token {
                return Err(StaleToken {
                    largest_token: resource.largest_token,
                });
            }
            resource.largest_token = token;
        }
        Ok(act(resource))
    }

    /// Its value; with a token if it is guarded.
    pub(crate) fn read(&self, name: &str, token: Option<u64>) -> Result<Option<i64>, StaleToken> {
        self.with(name, token, |resource| resource.value)
    }

    /// Replaces its value; with a token if it is guarded.
    pub(crate) fn write(
        &self,
        name: &str,
        token: Option<u64>,
        value: i64,
    ) -> Result<(), StaleToken> {
        self.with(name, token, |resource| resource.value = Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guarded_resource_refuses_stale_tokens_on_reads_and_writes_and_an_unguarded_one_nothing() {
        let resources = Resources::default();
        resources.write("a", Some(7), 1).unwrap();
        assert_eq!(resources.read("a", Some(8)), Ok(Some(1)));
        let stale = StaleToken { largest_token: 8 };
        assert_eq!(resources.read("a", Some(7)), Err(stale));
        assert_eq!(resources.write("a", Some(7), 2), Err(stale));
        assert_eq!(resources.read("a", None), Ok(Some(1)));
        resources.write("a", None, 3).unwrap();
        assert_eq!(resources.read("a", Some(8)), Ok(Some(3)));
    }
}
