//! The table against `docs/contract.md`, both ways: no row is forgotten, and none is made up.

use crate::table::rows;
use std::collections::BTreeSet;
use std::path::Path;

/// Rows that a client of one address can't judge: (id, where they are proved).
const ELSEWHERE: &[(&str, &str)] = &[
    ("C-LSN-5", "needs a listener with its own configuration"),
    ("C-ERR-8", "needs a full queue or a limit: src/call/tests"),
    ("C-ERR-11", "needs nodes without a quorum: losses.rs"),
    ("C-ERR-12", "needs a node that drains, past its grace"),
    ("C-ERR-13", "needs a bug: src/call/tests"),
    ("C-RSM-4", "needs nodes without a quorum: losses.rs"),
    ("C-RSM-5", "needs a worker that dies: any_worker.rs"),
    (
        "C-RSM-6",
        "needs a worker without a free slot: any_worker.rs",
    ),
    ("C-RSM-7", "needs a worker that comes back: any_worker.rs"),
];

/// The ids of the contract that begin with `C-`.
fn contract() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/contract.md");
    let text = std::fs::read_to_string(path).expect("docs/contract.md");
    let cells = text.lines().filter_map(|line| line.strip_prefix("| C-"));
    let ids = cells.filter_map(|rest| rest.split_whitespace().next());
    ids.map(|id| format!("C-{id}")).collect()
}

#[test]
fn the_table_has_every_row_of_the_contract_and_no_other() {
    let contract = contract();
    let table: BTreeSet<String> = rows()
        .iter()
        .map(|row| row.contract_id().to_owned())
        .collect();
    let elsewhere: BTreeSet<String> = ELSEWHERE.iter().map(|(id, _)| (*id).to_owned()).collect();
    let mut wrong = Vec::new();
    for id in &contract {
        match (table.contains(id), elsewhere.contains(id)) {
            (false, false) => wrong.push(format!("{id} has no check, and no reason why not")),
            (true, true) => wrong.push(format!("{id} has a check, and a reason why not")),
            _ => {}
        }
    }
    for id in table.union(&elsewhere).filter(|id| !contract.contains(*id)) {
        wrong.push(format!("{id} is not in docs/contract.md"));
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn no_two_rows_of_the_table_have_one_name() {
    let mut seen = BTreeSet::new();
    for row in rows() {
        assert!(seen.insert(row.id), "{} is there twice", row.id);
    }
}
