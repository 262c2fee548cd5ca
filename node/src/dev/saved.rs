//! What a data folder remembers from one start to the next: the cluster's size, its ports, the demo
//! function's ids, and the secrets.
//!
//! The file is readable by its owner only. The secrets of a real cluster are never kept like this;
//! a development cluster's are, so that the lines that were pasted yesterday work today.

use super::plan::{Layout, Node, Ports, Size, Worker};
use super::{Error, plan};
use crate::random;
use pontoon_proto::id::{FunctionId, TenantId, VersionId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The remembered values.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Saved {
    pub(super) size: Size,
    pub(super) nodes: BTreeMap<String, Ports>,
    pub(super) workers: BTreeMap<String, u16>,
    pub(super) tenant: TenantId,
    pub(super) function: FunctionId,
    pub(super) version: VersionId,
    pub(super) join_token: String,
    pub(super) admin_token: String,
    /// Minted by the cluster, so absent until the first start has come that far.
    pub(super) client_key: Option<String>,
    pub(super) worker_key: Option<String>,
}

impl Saved {
    /// A new cluster's: fresh ids and tokens.
    pub(super) fn new(size: Size) -> Self {
        Self {
            size,
            nodes: BTreeMap::new(),
            workers: BTreeMap::new(),
            tenant: TenantId::from_random(random::bytes()),
            function: FunctionId::from_random(random::bytes()),
            version: VersionId::from_random(random::bytes()),
            join_token: token(),
            admin_token: token(),
            client_key: None,
            worker_key: None,
        }
    }

    /// What an earlier start left in this folder, if there was one.
    pub(super) fn load(layout: &Layout) -> Result<Option<Self>, Error> {
        let path = layout.saved();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read", &path, &error)),
        };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Error::new(format!(
                "{} is not what `pontoon dev` writes ({error}): use another --data-dir",
                path.display()
            ))
        })
    }

    /// Writes it, whole or not at all.
    pub(super) fn store(&self, layout: &Layout) -> Result<(), Error> {
        let text =
            serde_json::to_string_pretty(self).map_err(|error| Error::new(error.to_string()))?;
        write_private(&layout.saved(), &(text + "\n"))
    }

    /// Keeps the listeners for the next start.
    pub(super) fn remember_ports(&mut self, nodes: &[Node], workers: &[Worker]) {
        self.nodes = nodes
            .iter()
            .map(|node| (node.name.clone(), node.listen))
            .collect();
        self.workers = workers
            .iter()
            .map(|worker| (worker.name.clone(), worker.address.port()))
            .collect();
    }

    /// The size asked for, if this folder's cluster can have it: its members are its identity and
    /// a version's slots never change, but workers may come and go.
    pub(super) fn resized(
        &self,
        nodes_per_region: Option<u32>,
        workers_per_region: Option<u32>,
        slots: Option<u32>,
    ) -> Result<Size, Error> {
        for (flag, wanted, found) in [
            (
                "nodes-per-region",
                nodes_per_region,
                self.size.nodes_per_region,
            ),
            ("slots", slots, self.size.slots),
        ] {
            if wanted.is_some_and(|wanted| wanted != found) {
                return Err(Error::new(format!(
                    "this data folder's cluster was made with --{flag} {found}: leave the flag out, or use another --data-dir"
                )));
            }
        }
        Ok(Size {
            workers_per_region: workers_per_region.unwrap_or(self.size.workers_per_region),
            ..self.size
        })
    }
}

/// 32 hex digits: 128 random bits.
fn token() -> String {
    plan::hex(&random::bytes::<16>())
}

/// Writes a file that only its owner may read: aside, then renamed, so that nobody ever sees half.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    write(path, text, 0o600)
}

/// As [`write_private`], with a mode.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = Path::new(&aside);
    let attempt = || -> std::io::Result<()> {
        // A leftover of a killed process may have another mode, which opening would keep.
        match std::fs::remove_file(aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(aside, path)
    };
    attempt().map_err(|error| Error::file("write", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const SIZE: Size = Size {
        nodes_per_region: 1,
        workers_per_region: 1,
        slots: 8,
    };

    #[test]
    fn a_second_start_finds_ids_and_secrets_again_and_only_their_owner_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout {
            root: folder.path().to_owned(),
            tls: false,
        };
        std::fs::create_dir(folder.path().join("secrets")).unwrap();
        assert!(Saved::load(&layout).unwrap().is_none());
        let mut saved = Saved::new(SIZE);
        saved.store(&layout).unwrap();
        saved.client_key = Some("key".to_owned());
        saved.store(&layout).unwrap();
        let again = Saved::load(&layout).unwrap().unwrap();
        assert_eq!(again.version, saved.version);
        assert_eq!(again.client_key.as_deref(), Some("key"));
        let mode = std::fs::metadata(layout.saved())
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_folder_keeps_its_nodes_and_slots_but_not_its_workers() {
        let saved = Saved::new(SIZE);
        assert_eq!(saved.resized(None, None, None).unwrap(), SIZE);
        assert_eq!(
            saved
                .resized(Some(1), Some(3), Some(8))
                .unwrap()
                .workers_per_region,
            3
        );
        let error = saved.resized(Some(3), None, None).unwrap_err().to_string();
        assert!(error.contains("--nodes-per-region 1"), "{error}");
        assert!(saved.resized(None, None, Some(2)).is_err());
    }
}
