//! Sessions as clients see them: opening, pins, resuming by header and by cookie, sharing, ending.

mod support;

use support::client::{Call, Client, keys};
use support::cluster::Cluster;

const REGIONS: [&str; 3] = ["us-east", "us-west", "eu-central"];

/// A client with one channel per region, named like the region, each of which is connected.
fn connected(cluster: &Cluster) -> Option<Client> {
    let client = Client::start()?;
    for region in REGIONS {
        client.connect(region, cluster.client_address(region));
        // Refused before any session is looked at, so it costs nothing but the connection.
        client
            .sum(region, &[], 1)
            .fails(16, "no authorization was passed in the metadata");
    }
    Some(client)
}

/// A new connection to a region's node, under a name of its own.
fn fresh(client: &Client, cluster: &Cluster, region: &str, name: &str) {
    client.connect(name, cluster.client_address(region));
}

#[track_caller]
fn worker(call: &Call) -> String {
    call.answer()["worker"].as_str().expect("text").to_owned()
}

#[track_caller]
fn sum(call: &Call) -> i64 {
    call.answer()["sum"].as_i64().expect("a number")
}

#[track_caller]
fn end(cluster: &Cluster, id: &str) {
    cluster.ask(&["session", "end", id]);
}

#[test]
fn c_rsm_1_c_rsm_2_a_session_resumes_by_header_at_every_node_right_after_its_first_answer() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    for entry in REGIONS {
        let opened = format!("opened in {entry}");
        fresh(&client, cluster, entry, &opened);
        let first = client.sum(&opened, &keys(cluster, &[]), 5);
        let (id, home, mut total) = (first.session(), worker(&first), 5);
        assert_eq!(
            first.answer()["session"],
            id.as_str(),
            "what the worker was told"
        );
        for region in REGIONS {
            let next = client.sum(region, &keys(cluster, &[("nvcf-reqid", &id)]), 1);
            total += 1;
            assert_eq!(next.session(), id);
            assert_eq!((worker(&next), sum(&next)), (home.clone(), total));
        }
        end(cluster, &id);
    }
}

#[test]
fn c_rid_1_c_rsp_2_a_session_resumes_by_the_cookie_of_its_first_answer() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    fresh(&client, cluster, "us-east", "browser");
    let first = client.sum("browser", &keys(cluster, &[]), 5);
    let id = first.session();
    let cookie = format!("nvcf-request-id={id}");
    let set = format!("{cookie}; Path=/; SameSite=Lax");
    assert_eq!(first.metadata("set-cookie"), std::slice::from_ref(&set));
    let second = client.sum("browser", &keys(cluster, &[]), 1);
    assert_eq!(second.session(), id);
    assert!(
        second.metadata("set-cookie").is_empty(),
        "once per connection"
    );
    for region in REGIONS {
        let name = format!("browser in {region}");
        fresh(&client, cluster, region, &name);
        let mixed = format!("theme=dark; {cookie}; lang=de");
        let next = client.sum(&name, &keys(cluster, &[("cookie", &mixed)]), 1);
        assert_eq!(next.session(), id);
        assert_eq!(worker(&next), worker(&first));
        assert_eq!(
            next.metadata("set-cookie"),
            std::slice::from_ref(&set),
            "its first on this connection"
        );
    }
    end(cluster, &id);
}

#[test]
fn c_rid_1_a_header_wins_over_a_cookie_and_an_empty_header_does_not() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    fresh(&client, cluster, "us-east", "one");
    fresh(&client, cluster, "us-east", "two");
    let one = client.sum("one", &keys(cluster, &[]), 1).session();
    let two = client.sum("two", &keys(cluster, &[]), 1).session();
    let cookie = format!("nvcf-request-id={two}");
    let both = keys(cluster, &[("nvcf-reqid", &one), ("cookie", &cookie)]);
    assert_eq!(client.sum("us-west", &both, 1).session(), one);
    let empty = keys(cluster, &[("nvcf-reqid", ""), ("cookie", &cookie)]);
    assert_eq!(client.sum("us-west", &empty, 1).session(), two);
    end(cluster, &one);
    end(cluster, &two);
}

#[test]
fn c_rid_2_every_spelling_of_an_id_is_understood_and_what_is_no_uuid_counts_as_no_id() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    fresh(&client, cluster, "us-east", "spelling");
    let id = client.sum("spelling", &keys(cluster, &[]), 1).session();
    let uuid: uuid::Uuid = id.parse().expect("a UUID");
    assert_eq!(
        id,
        uuid.hyphenated().to_string(),
        "ours are hyphenated, in lower case"
    );
    for spelling in [
        uuid.simple().to_string(),
        uuid.urn().to_string(),
        uuid.braced().to_string(),
        id.to_uppercase(),
    ] {
        let call = client.sum("us-west", &keys(cluster, &[("nvcf-reqid", &spelling)]), 1);
        assert_eq!(call.session(), id, "{spelling}");
    }
    let cookie = format!("nvcf-request-id={id}");
    fresh(&client, cluster, "us-east", "malformed");
    let malformed = keys(cluster, &[("nvcf-reqid", "not-an-id"), ("cookie", &cookie)]);
    let new = client.sum("malformed", &malformed, 1);
    assert_ne!(new.session(), id, "no fall-through to the cookie");
    assert_eq!(sum(&new), 1);
    end(cluster, &new.session());
    end(cluster, &id);
}

#[test]
fn c_rid_3_c_err_6_an_id_that_nobody_minted_is_not_found_at_any_node() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    for made_up in [
        "67e55044-10b1-426f-9247-bb680e5fe0c8",
        "00000000-0000-0000-0000-000000000000",
        "01234567-89ab-8001-8123-456789abcdef",
        "01234567-89ab-8003-8123-456789abcdef",
        "01234567-89ab-8fff-8123-456789abcdef",
    ] {
        for region in REGIONS {
            client
                .sum(region, &keys(cluster, &[("nvcf-reqid", made_up)]), 1)
                .fails(5, "no existing session found");
        }
    }
}

#[test]
fn c_rid_4_an_id_in_the_header_wins_over_the_pin_and_leaves_it_alone() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    fresh(&client, cluster, "us-east", "other");
    fresh(&client, cluster, "us-east", "pinned");
    let other = client.sum("other", &keys(cluster, &[]), 10).session();
    let pinned = client.sum("pinned", &keys(cluster, &[]), 1).session();
    assert_ne!(other, pinned);
    let named = client.sum("pinned", &keys(cluster, &[("nvcf-reqid", &other)]), 1);
    assert_eq!((named.session(), sum(&named)), (other.clone(), 11));
    let again = client.sum("pinned", &keys(cluster, &[]), 1);
    assert_eq!((again.session(), sum(&again)), (pinned.clone(), 2));
    end(cluster, &other);
    end(cluster, &pinned);
}

#[test]
fn c_rid_4_a_dead_cookie_counts_as_absent_beside_a_live_pin_and_is_cleared_without_one() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    fresh(&client, cluster, "us-east", "dying");
    let dead = client.sum("dying", &keys(cluster, &[]), 1).session();
    end(cluster, &dead);
    let cookie = format!("nvcf-request-id={dead}");
    fresh(&client, cluster, "us-east", "living");
    let living = client.sum("living", &keys(cluster, &[]), 1).session();
    let beside = client.sum("living", &keys(cluster, &[("cookie", &cookie)]), 1);
    assert_eq!(beside.session(), living);
    fresh(&client, cluster, "us-west", "alone");
    let alone = client.sum("alone", &keys(cluster, &[("cookie", &cookie)]), 1);
    alone.fails(5, "no existing session found");
    assert_eq!(
        alone.metadata("set-cookie")[0],
        "nvcf-request-id=; Max-Age=0"
    );
    end(cluster, &living);
}

#[test]
fn c_rsp_3_a_session_that_is_not_found_clears_its_own_cookie_and_no_other() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    fresh(&client, cluster, "us-east", "gone");
    let gone = client.sum("gone", &keys(cluster, &[]), 1).session();
    end(cluster, &gone);
    let cleared = [
        "nvcf-request-id=; Max-Age=0",
        "nvcf-request-id=; Max-Age=0; Path=/; SameSite=Lax",
    ];
    let cookie = format!("nvcf-request-id={gone}");
    let same = keys(cluster, &[("nvcf-reqid", &gone), ("cookie", &cookie)]);
    let call = client.sum("us-east", &same, 1);
    call.fails(5, "no existing session found");
    assert_eq!(call.metadata("set-cookie"), cleared);
    let other = "nvcf-request-id=01234567-89ab-8001-8123-456789abcdef";
    let different = keys(cluster, &[("nvcf-reqid", &gone), ("cookie", other)]);
    let call = client.sum("us-east", &different, 1);
    call.fails(5, "no existing session found");
    assert!(call.metadata("set-cookie").is_empty());
    let header = client.sum("us-east", &keys(cluster, &[("nvcf-reqid", &gone)]), 1);
    assert!(header.metadata("set-cookie").is_empty(), "{header:?}");
}

#[test]
fn c_pin_1_calls_of_one_connection_share_a_session_and_two_connections_have_two() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    fresh(&client, cluster, "us-east", "a");
    fresh(&client, cluster, "us-east", "b");
    let a = client.sum("a", &keys(cluster, &[]), 1);
    let b = client.sum("b", &keys(cluster, &[]), 1);
    assert_ne!(a.session(), b.session());
    for expected in 2..5 {
        let next = client.sum("a", &keys(cluster, &[]), 1);
        assert_eq!((next.session(), sum(&next)), (a.session(), expected));
    }
    // Another spelling of the version is another pin: "as sent".
    let ready = cluster.ready();
    let unversioned = [
        ("authorization", ready.bearer.as_str()),
        ("function-id", ready.function_id.as_str()),
    ];
    let apart = client.sum("a", &unversioned, 1);
    assert_ne!(apart.session(), a.session());
    for call in [a, b, apart] {
        end(cluster, &call.session());
    }
}

#[test]
fn c_pin_2_ten_racing_first_calls_on_one_connection_open_one_session() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    fresh(&client, cluster, "us-west", "race");
    let metadata = keys(cluster, &[]);
    let answer = client.run(serde_json::json!({
        "do": "unary", "channel": "race", "metadata": metadata, "x": 1, "count": 10,
    }));
    let calls: Vec<Call> = answer["calls"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|call| Call(call.clone()))
        .collect();
    assert_eq!(calls.len(), 10);
    let id = calls[0].session();
    assert!(calls.iter().all(|call| call.session() == id), "{calls:?}");
    let mut sums: Vec<i64> = calls.iter().map(sum).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=10).collect::<Vec<i64>>());
    let cookies: usize = calls
        .iter()
        .map(|call| call.metadata("set-cookie").len())
        .sum();
    assert_eq!(
        cookies, 1,
        "the cookie is set once per session and connection"
    );
    end(cluster, &id);
}

#[test]
fn c_pin_3_when_its_session_has_ended_a_connection_opens_a_new_one() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    fresh(&client, cluster, "eu-central", "again");
    let first = client.sum("again", &keys(cluster, &[]), 3).session();
    end(cluster, &first);
    client
        .sum("again", &keys(cluster, &[("nvcf-reqid", &first)]), 1)
        .fails(5, "no existing session found");
    let second = client.sum("again", &keys(cluster, &[]), 1);
    assert_ne!(second.session(), first);
    assert_eq!(sum(&second), 1);
    end(cluster, &second.session());
}

#[test]
fn c_rsm_3_connections_at_three_nodes_share_a_session_at_once() {
    let cluster = Cluster::shared();
    let _witness = cluster.witness();
    let Some(client) = connected(cluster) else {
        return;
    };
    fresh(&client, cluster, "us-east", "owner");
    let id = client.sum("owner", &keys(cluster, &[]), 0).session();
    let named = keys(cluster, &[("nvcf-reqid", &id)]);
    let mut pending = Vec::new();
    for _ in 0..5 {
        for region in REGIONS {
            pending.push(client.begin_sum(region, &named, 1));
        }
    }
    let mut sums: Vec<i64> = pending.into_iter().map(|call| sum(&call.call())).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=15).collect::<Vec<i64>>());
    let shown = cluster.ask(&["session", "show", &id]);
    let entered = shown["entered_at"].as_array().expect("a list").len();
    assert_eq!(entered, 3, "{shown}");
    end(cluster, &id);
}
