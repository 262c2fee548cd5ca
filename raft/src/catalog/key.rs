//! Keys: hashes, what they open, and their end.

use super::command::{Effect, Key, KeyKind, Reply};
use super::tenant::taken;
use super::{Catalog, Outcome, valid};
use pontoon_proto::id::KeyId;
use std::sync::Arc;

impl Catalog {
    pub(super) fn create_key(&mut self, index: u64, key: Key) -> Outcome {
        if let Some(known) = self.key(key.id) {
            // A retry is the same key also after its revocation.
            let content = |key: &Key| {
                (
                    key.hash,
                    key.kind.clone(),
                    key.subject.clone(),
                    key.expires_unix,
                )
            };
            let same = content(known) == content(&key);
            return if same {
                Ok(())
            } else {
                Err(Reply::Conflict(taken("key", key.id)))
            };
        }
        valid::text("a key's subject", &key.subject)?;
        valid::ensure(!key.revoked, || "a new key must not be revoked".to_owned())?;
        if let Some(other) = self.key_by_hash(&key.hash) {
            return Err(Reply::Conflict(format!(
                "the hash is taken by key {}",
                other.id
            )));
        }
        match &key.kind {
            KeyKind::Client { tenant, functions } => {
                self.tenant_exists(*tenant)?;
                valid::key_functions(functions.len())?;
                for &function in functions {
                    self.function_for(*tenant, function)?;
                }
            }
            KeyKind::Worker { tenant, version } => {
                self.tenant_exists(*tenant)?;
                let Some(known) = self.version(*version) else {
                    return Err(Reply::NotFound(format!("there is no version {version}")));
                };
                self.function_of(*tenant, known.function)?;
            }
            KeyKind::Admin(_) => {}
        }
        let noun = match &key.kind {
            KeyKind::Client { .. } => "client",
            KeyKind::Worker { .. } => "worker",
            KeyKind::Admin(_) => "admin",
        };
        self.log(
            index,
            &key.actor,
            format!("create {noun} key {} for {:?}", key.id, key.subject),
        );
        self.indexes.key_by_hash.insert(key.hash, key.id);
        self.records.keys.insert(key.id, Arc::new(key));
        Ok(())
    }

    pub(super) fn revoke_key(
        &mut self,
        index: u64,
        id: KeyId,
        actor: &str,
        effects: &mut Vec<Effect>,
    ) -> Outcome {
        let Some(known) = self.key(id) else {
            return Err(Reply::NotFound(format!("there is no key {id}")));
        };
        if !known.revoked {
            let key = Key {
                revoked: true,
                ..Key::clone(known)
            };
            self.log(index, actor, format!("revoke key {id}"));
            self.records.keys.insert(id, Arc::new(key));
            effects.push(Effect::KeyRevoked(id));
        }
        Ok(())
    }
}
