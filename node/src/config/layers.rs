//! Layers of configuration, and where each value came from.
//!
//! The environment says `PONTOON__LISTEN__CLIENT=127.0.0.1:1` for `listen.client`; a flag says
//! `--set listen.client=127.0.0.1:1`. A value is read as TOML, and as a plain string where it is not
//! TOML. Lists of tables (`cluster.members`) come from the file only.

use super::raw::Raw;
use super::{ConfigError, bad};
use std::collections::BTreeMap;
use std::fmt;
use toml::{Table, Value};

/// The environment's prefix; parts of a key are joined by two underscores.
pub const PREFIX: &str = "PONTOON__";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The file.
    File(String),
    /// An environment variable.
    Environment(String),
    /// A flag, by its name.
    Flag(&'static str),
    /// Nobody said anything.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File(path) => write!(f, "file {path}"),
            Origin::Environment(name) => write!(f, "environment {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// The layers, laid over each other.
#[derive(Debug)]
pub struct Layers {
    table: Table,
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    /// Lays the environment over the file's text, and the flags over both.
    pub fn new(
        path: &str,
        text: &str,
        environment: &[(String, String)],
        flags: &[String],
    ) -> Result<Layers, ConfigError> {
        let table: Table = toml::from_str(text)
            .map_err(|error| ConfigError(format!("{path} is not TOML: {error}")))?;
        let mut origins = BTreeMap::new();
        leaves("", &table, &mut |key, _| {
            origins.insert(key.into(), Origin::File(path.into()));
        });
        let mut layers = Layers { table, origins };
        let mut variables: Vec<_> = environment
            .iter()
            .filter_map(|(name, value)| Some((name, name.strip_prefix(PREFIX)?, value)))
            .collect();
        variables.sort();
        for (name, key, value) in variables {
            let key = key.to_ascii_lowercase().replace("__", ".");
            layers.set(&key, value, Origin::Environment(name.clone()))?;
        }
        for flag in flags {
            let Some((key, value)) = flag.split_once('=') else {
                return bad(format!("--set {flag}: write it as key=value"));
            };
            layers.set(key.trim(), value, Origin::Flag("--set"))?;
        }
        Ok(layers)
    }

    /// Lays a flag that has a name of its own over everything.
    pub fn flag(&mut self, key: &str, value: &str, name: &'static str) -> Result<(), ConfigError> {
        self.set(key, value, Origin::Flag(name))
    }

    fn set(&mut self, key: &str, value: &str, origin: Origin) -> Result<(), ConfigError> {
        let value = value
            .parse::<Value>()
            .unwrap_or_else(|_| Value::String(value.into()));
        let parts: Vec<&str> = key.split('.').collect();
        let Some((last, path)) = parts.split_last() else {
            return bad(format!("{origin}: the key is empty"));
        };
        let mut table = &mut self.table;
        for part in path {
            let next = table
                .entry(*part)
                .or_insert_with(|| Value::Table(Table::new()));
            match next {
                Value::Table(inner) => table = inner,
                _ => {
                    return bad(format!(
                        "{origin}: {key} goes through {part}, which is no table"
                    ));
                }
            }
        }
        if let Value::Table(inner) = &value {
            leaves(key, inner, &mut |key, _| {
                self.origins.insert(key.into(), origin.clone());
            });
        }
        table.insert((*last).into(), value);
        self.origins.insert(key.into(), origin);
        Ok(())
    }

    /// What the layers say together; the error names the key and the layer it came from.
    pub fn raw(&self) -> Result<Raw, ConfigError> {
        Raw::deserialize_named(self.table.clone()).map_err(|(key, cause)| {
            let origin = self
                .origins
                .get(&key)
                .map(|origin| format!(" ({origin})"))
                .unwrap_or_default();
            let key = if key.is_empty() {
                String::new()
            } else {
                format!("{key}{origin}: ")
            };
            ConfigError(format!("{key}{cause}"))
        })
    }

    /// Every value in force with its origin, a line each, sorted by key.
    pub fn print(&self) -> Result<String, ConfigError> {
        let effective = Table::try_from(self.raw()?)
            .map_err(|error| ConfigError(format!("cannot print the configuration: {error}")))?;
        let mut lines = Vec::new();
        leaves("", &effective, &mut |key, value| {
            let origin = self.origins.get(key).unwrap_or(&Origin::Default);
            lines.push(format!("{key} = {value}  # {origin}"));
        });
        lines.sort();
        Ok(lines.join("\n"))
    }
}

fn leaves(prefix: &str, table: &Table, each: &mut impl FnMut(&str, &Value)) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            Value::Table(inner) => leaves(&path, inner, each),
            _ => each(&path, value),
        }
    }
}

impl Raw {
    fn deserialize_named(table: Table) -> Result<Raw, (String, String)> {
        // toml's error carries a message and, for a wrong type, the path in its last line; asking
        // for each top-level part alone finds the key that a message is about.
        serde::Deserialize::deserialize(Value::Table(table.clone())).map_err(
            |error: toml::de::Error| {
                let cause = error.message().to_owned();
                (find_key(&table, &cause), cause)
            },
        )
    }
}

/// The dotted key that a deserializer's message is about: the unknown field, or the first value
/// whose type the message names. Empty when the message says enough by itself.
fn find_key(table: &Table, cause: &str) -> String {
    let quoted = cause.split('`').nth(1).unwrap_or_default();
    let mut found = String::new();
    leaves("", table, &mut |key, value| {
        let named = key == quoted || key.ends_with(&format!(".{quoted}"));
        let typed = cause.starts_with("invalid type") && cause.contains(&format!("`{value}`"));
        if found.is_empty() && ((named && cause.starts_with("unknown field")) || typed) {
            found = key.into();
        }
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "name = \"a\"\nregion = \"r\"\ndata_dir = \"/d\"\n[cluster]\nname = \"c\"\n\
                        join_token_file = \"/t\"\nmembers = []\n";

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let environment = [
            ("PONTOON__NAME".to_owned(), "b".to_owned()),
            (
                "PONTOON__LISTEN__CLIENT".to_owned(),
                "127.0.0.1:1".to_owned(),
            ),
            ("HOME".to_owned(), "/root".to_owned()),
        ];
        let flags = [
            "name=c".to_owned(),
            "cluster.node_lost_after_ms=9000".to_owned(),
            "dns_service.prefixes={ \"10.0.0.0/8\" = \"r\" }".to_owned(),
        ];
        let layers = Layers::new("f", FILE, &environment, &flags).unwrap();
        let raw = layers.raw().unwrap();
        assert_eq!((raw.name.as_str(), raw.listen.client.port()), ("c", 1));
        assert_eq!(raw.cluster.node_lost_after_ms, 9000);
        let printed = layers.print().unwrap();
        for line in [
            "name = \"c\"  # flag --set",
            "listen.client = \"127.0.0.1:1\"  # environment PONTOON__LISTEN__CLIENT",
            "region = \"r\"  # file f",
            "insecure = false  # default",
            "dns_service.prefixes.10.0.0.0/8 = \"r\"  # flag --set",
        ] {
            assert!(
                printed.lines().any(|printed| printed == line),
                "{line} in\n{printed}"
            );
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_layer() {
        let error = Layers::new("f", FILE, &[], &["listen.clientt=x".into()])
            .unwrap()
            .raw()
            .unwrap_err();
        assert!(
            error
                .0
                .starts_with("listen.clientt (flag --set): unknown field"),
            "{error}"
        );
    }
}
