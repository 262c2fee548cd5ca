//! Figures as text and as JSON.

use serde::Serialize;
use std::fmt::Write as _;

/// A ratio or time that is to be reached.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    /// Its row in the list of goals.
    pub id: &'static str,
    /// What is compared.
    pub what: String,
    /// What was measured.
    pub value: f64,
    /// What is to be reached, as people read it.
    pub reach: &'static str,
    /// Whether it is.
    pub met: bool,
}

/// Rows under their heads, columns as wide as they need, numbers to the right.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].len());
        cells.chain([heads[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (column, cell) in cells.enumerate() {
            let width = widths[column];
            // Writing to a string does not fail.
            let _ = match column {
                0 => write!(out, "{cell:<width$}"),
                _ => write!(out, "  {cell:>width$}"),
            };
        }
        out.push('\n');
    };
    line(&mut heads.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    out
}

/// One line for each goal.
pub(super) fn goals(goals: &[Goal]) -> String {
    let rows: Vec<Vec<String>> = goals
        .iter()
        .map(|goal| {
            vec![
                format!("{} {}", goal.id, goal.what),
                format!("{:.2}", goal.value),
                goal.reach.to_owned(),
                if goal.met { "met" } else { "not met" }.to_owned(),
            ]
        })
        .collect();
    match rows.is_empty() {
        true => String::new(),
        false => table(&["goal", "measured", "to reach", ""], &rows),
    }
}

/// Any figures as JSON.
pub(super) fn json(figures: &impl Serialize) -> String {
    serde_json::to_string_pretty(figures).unwrap_or_default() + "\n"
}

/// What the machine is, in a few words.
pub(super) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut model = info.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == "model name").then(|| value.trim().to_owned())
    });
    let model = model
        .next()
        .unwrap_or_else(|| "unknown processor".to_owned());
    format!("{cores} cores, {model}, Linux {}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            vec!["ours".to_owned(), "1".to_owned()],
            vec!["etcd".to_owned(), "12345".to_owned()],
        ];
        let wanted = "name   op/s\nours      1\netcd  12345\n";
        assert_eq!(table(&["name", "op/s"], &rows), wanted);
    }
}
