//! All models by name, for callers who learn at run time which one is wanted.

use super::{CasRegister, Expiry, KeyValue, Locks, Register};
use crate::{Budget, History, Malformed, Report, Settings, Value, check};

/// A model chosen by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnyModel {
    /// See [`Register`].
    Register(Register),
    /// See [`CasRegister`].
    CasRegister(CasRegister),
    /// See [`KeyValue`].
    KeyValue(KeyValue),
    /// See [`Locks`].
    Locks(Locks),
}

impl AnyModel {
    /// The names, in the order in which people should read them. `semaphore:N` has N permits,
    /// `register:V` and `cas-register:V` hold the whole number V at the start.
    pub const NAMES: [&'static str; 10] = [
        "register",
        "cas-register",
        "kv",
        "mutex",
        "owner-mutex",
        "fenced-mutex",
        "rw-lock",
        "semaphore",
        "multi-lock",
        "lease-lock",
    ];

    /// [`check`] with this model.
    ///
    /// # Errors
    ///
    /// As [`check`].
    pub fn check(
        &self,
        history: &History,
        settings: &Settings,
        budget: &Budget<'_>,
    ) -> Result<Report, Malformed> {
        match self {
            AnyModel::Register(model) => check(model, history, settings, budget),
            AnyModel::CasRegister(model) => check(model, history, settings, budget),
            AnyModel::KeyValue(model) => check(model, history, settings, budget),
            AnyModel::Locks(model) => check(model, history, settings, budget),
        }
    }
}

impl std::str::FromStr for AnyModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, argument) = match text.split_once(':') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let refused = || {
            let names = AnyModel::NAMES.join(", ");
            format!(
                "there is no model {text:?}; there are {names}, of which semaphore:N takes its \
                 permits, register:V and cas-register:V their first value"
            )
        };
        let initial = || match argument {
            None => Ok(Value::Nil),
            Some(number) => number.parse().map(Value::Integer).map_err(|_| refused()),
        };
        let model = match (name, argument) {
            ("register", _) => AnyModel::Register(Register {
                initial: initial()?,
            }),
            ("cas-register", _) => AnyModel::CasRegister(CasRegister {
                initial: initial()?,
            }),
            ("semaphore", Some(limit)) => {
                let limit = limit.parse().map_err(|_| refused())?;
                AnyModel::Locks(Locks::semaphore(limit))
            }
            (_, Some(_)) => return Err(refused()),
            ("kv", None) => AnyModel::KeyValue(KeyValue),
            ("mutex", None) => AnyModel::Locks(Locks::mutex()),
            ("owner-mutex", None) => AnyModel::Locks(Locks::owner_mutex()),
            ("fenced-mutex", None) => AnyModel::Locks(Locks::fenced_mutex()),
            ("rw-lock", None) => AnyModel::Locks(Locks::read_write_lock()),
            ("semaphore", None) => AnyModel::Locks(Locks::semaphore(1)),
            ("multi-lock", None) => AnyModel::Locks(Locks::multi_lock()),
            ("lease-lock", None) => AnyModel::Locks(Locks::lease_lock(Expiry::default())),
            _ => return Err(refused()),
        };
        Ok(model)
    }
}
