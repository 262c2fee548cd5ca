//! Prints records as aligned columns, or as JSON.
//!
//! A record is anything that serializes to an object. A column is the name of a field, or of one
//! inside another (`policy.slots`); its heading is the last part in capitals.

use super::nouns::Output;
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write as _;

/// Many records: a line each, or a JSON array.
pub(super) fn list<T: Serialize>(output: Output, records: &[T], columns: &[&str]) -> String {
    match output {
        Output::Json => json(&records),
        Output::Table => {
            let mut lines = vec![columns.iter().map(|column| heading(column)).collect()];
            for record in records {
                let record = value(record);
                lines.push(columns.iter().map(|column| cell(&record, column)).collect());
            }
            align(&lines)
        }
    }
}

/// One record: a line per field, or a JSON object.
pub(super) fn show<T: Serialize>(output: Output, record: &T, fields: &[&str]) -> String {
    match output {
        Output::Json => json(record),
        Output::Table => {
            let record = value(record);
            let lines: Vec<Vec<String>> = fields
                .iter()
                .map(|field| vec![field.replace(['.', '_'], " "), cell(&record, field)])
                .collect();
            align(&lines)
        }
    }
}

/// Any record as indented JSON with a newline.
pub(super) fn json<T: Serialize>(record: &T) -> String {
    let mut text = serde_json::to_string_pretty(record).unwrap_or_default();
    text.push('\n');
    text
}

fn value<T: Serialize>(record: &T) -> Value {
    serde_json::to_value(record).unwrap_or(Value::Null)
}

fn heading(column: &str) -> String {
    let last = column.rsplit('.').next().unwrap_or(column);
    last.replace('_', " ").to_uppercase()
}

fn cell(record: &Value, column: &str) -> String {
    let found = column
        .split('.')
        .try_fold(record, |value, field| value.get(field));
    match found {
        Some(Value::String(text)) if !text.is_empty() => printable(text),
        Some(Value::Array(items)) if !items.is_empty() => items
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), printable))
            .collect::<Vec<_>>()
            .join(","),
        Some(Value::Bool(yes)) => if *yes { "yes" } else { "no" }.into(),
        Some(Value::Number(number)) => number.to_string(),
        _ => "-".into(),
    }
}

/// Names are other people's text: a control character must not reach the terminal.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            // Writing to a string can't fail.
            let _ = write!(row, "{cell:width$}  ");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_line_up_and_absence_is_a_dash() {
        let records = [
            json!({"name": "us-east-1", "at": {"rtt_us": 90}, "voters": ["a", "b"], "up": true}),
            json!({"name": "eu\u{1b}[2J", "at": null, "voters": [], "up": false}),
        ];
        let text = list(
            Output::Table,
            &records,
            &["name", "at.rtt_us", "voters", "up"],
        );
        assert_eq!(
            text,
            "NAME       RTT US  VOTERS  UP\n\
             us-east-1  90      a,b     yes\n\
             eu\u{fffd}[2J     -       -       no\n"
        );
    }

    #[test]
    fn one_record_is_a_line_per_field() {
        let record = json!({"id": "x", "policy": {"slots": 4}});
        assert_eq!(
            show(Output::Table, &record, &["id", "policy.slots"]),
            "id            x\npolicy slots  4\n"
        );
        assert_eq!(
            show(Output::Json, &json!({"id": 1}), &[]),
            "{\n  \"id\": 1\n}\n"
        );
    }

    #[test]
    fn an_empty_list_still_has_its_heading() {
        assert_eq!(list::<Value>(Output::Table, &[], &["id"]), "ID\n");
        assert_eq!(list::<Value>(Output::Json, &[], &["id"]), "[]\n");
    }
}
