//! The ranges of numbers, and what breaks beyond their ends.

use super::raw::Raw;
use super::{ConfigError, bad};

/// One number: its key and value, its range, and what breaks below and above.
struct Number {
    key: &'static str,
    value: u64,
    min: u64,
    max: u64,
    below: &'static str,
    above: &'static str,
}

/// Checks every number of the file.
pub(super) fn check(raw: &Raw) -> Result<(), ConfigError> {
    for number in numbers(raw) {
        let Number {
            key,
            value,
            min,
            max,
            below,
            above,
        } = number;
        let why = match value {
            value if value < min => below,
            value if value > max => above,
            _ => continue,
        };
        return bad(format!("{key} is {value}, not in {min}..={max}: {why}"));
    }
    Ok(())
}

fn numbers(raw: &Raw) -> [Number; 9] {
    let limits = &raw.limits;
    [
        Number {
            key: "cluster.node_lost_after_ms",
            value: raw.cluster.node_lost_after_ms,
            min: 2_000,
            max: 600_000,
            below: "nodes beat once a second, so a healthy node would be declared lost",
            above: "the sessions and slots of a dead node would be held for so long",
        },
        Number {
            key: "cluster.node_dead_after_ms",
            value: raw.cluster.node_dead_after_ms,
            min: 10_000,
            max: 86_400_000,
            below: "a node that restarts would lose its places, and voters would move back and forth",
            above: "a group would go on for more than a day with a voter less",
        },
        Number {
            key: "dns_service.ttl_seconds",
            value: u64::from(raw.dns_service.ttl_seconds),
            min: 1,
            max: 3_600,
            below: "every call of every client would be a question",
            above: "clients would go to a region that is gone for more than an hour",
        },
        Number {
            key: "dns_service.answers_per_second",
            value: u64::from(raw.dns_service.answers_per_second),
            min: 10,
            max: 1_000_000,
            below: "one resolver's clients would be sent to TCP",
            above: "whoever is flooded with answers from here would get all that this node can send",
        },
        Number {
            key: "limits.header_list_bytes",
            value: u64::from(limits.header_list_bytes),
            min: 4_096,
            max: 1 << 20,
            below: "the head of an ordinary gRPC call with a token would not fit",
            above: "every stream of every connection may cost that much memory",
        },
        Number {
            key: "limits.streams_max",
            value: u64::from(limits.streams_max),
            min: 1,
            max: 65_536,
            below: "no client could make a call",
            above: "one connection could take the memory of a whole node",
        },
        Number {
            key: "limits.connections_max",
            value: limits.connections_max as u64,
            min: 1,
            max: 1_000_000,
            below: "no client could connect",
            above: "connections that do nothing would cost 20 GB",
        },
        Number {
            key: "limits.handshake_ms",
            value: limits.handshake_ms,
            min: 100,
            max: 120_000,
            below: "clients at a distance would never get through their handshake",
            above: "connections that say nothing would keep others out",
        },
        Number {
            key: "limits.idle_ms",
            value: limits.idle_ms,
            min: 1_000,
            max: 86_400_000,
            below: "clients would be sent away between two calls, and their pins with them",
            above: "connections that nobody uses any more would stay for more than a day",
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::super::tests::load;

    #[test]
    fn o_cfg_1_a_number_out_of_range_is_named_with_its_range_and_the_reason() {
        let cases = [
            (
                "cluster.node_lost_after_ms",
                1_999,
                2_000,
                "beat once a second",
            ),
            ("cluster.node_lost_after_ms", 600_001, 600_000, "dead node"),
            ("dns_service.ttl_seconds", 0, 1, "a question"),
            ("dns_service.ttl_seconds", 3_601, 3_600, "an hour"),
            ("dns_service.answers_per_second", 9, 10, "to TCP"),
            (
                "dns_service.answers_per_second",
                1_000_001,
                1_000_000,
                "flooded",
            ),
            ("limits.header_list_bytes", 4_095, 4_096, "would not fit"),
            ("limits.header_list_bytes", 1_048_577, 1_048_576, "memory"),
            ("limits.streams_max", 0, 1, "no client"),
            ("limits.streams_max", 65_537, 65_536, "one connection"),
            ("limits.connections_max", 0, 1, "no client"),
            ("limits.connections_max", 1_000_001, 1_000_000, "20 GB"),
            ("limits.handshake_ms", 99, 100, "at a distance"),
            ("limits.handshake_ms", 120_001, 120_000, "say nothing"),
            ("limits.idle_ms", 999, 1_000, "between two calls"),
            ("limits.idle_ms", 86_400_001, 86_400_000, "more than a day"),
        ];
        for (key, wrong, nearest, why) in cases {
            let set = |value: u64| {
                let (table, name) = key.split_once('.').unwrap();
                load(|file| match table {
                    "cluster" => file.replace("[cluster]", &format!("[cluster]\n{name} = {value}")),
                    table => format!("{file}[{table}]\n{name} = {value}\n"),
                })
            };
            let error = set(wrong).unwrap_err();
            assert!(
                error.0.starts_with(&format!("{key} is {wrong}, not in ")),
                "{error}"
            );
            assert!(error.0.contains(why), "{error}");
            set(nearest).unwrap();
        }
    }
}
