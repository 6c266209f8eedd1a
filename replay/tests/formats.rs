//! The same calls in every format lead to the same decisions.

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::{Value, json};

use crate::oracle::{self, Limit};
use crate::support::{Folder, number, stdout};

/// A call with the fields that all formats have: second, address, user, path, bytes.
struct Call {
    second: i64,
    ip: String,
    user: &'static str,
    path: String,
    bytes: u64,
}

/// 2026-07-02T22:23:00Z.
const START: i64 = 1_783_030_980;

fn calls() -> Vec<Call> {
    let call = |number: i64| Call {
        second: number / 3,
        ip: if number % 4 == 0 { "192.0.2.1".to_owned() } else { format!("2001:db8:0:{:x}::{number:x}", number % 7) },
        user: ["ann", "bob", "-"][usize::try_from(number % 3).expect("small")],
        path: format!("/p{}?q={number}", number % 2),
        bytes: u64::try_from(number * 37 % 30).expect("small"),
    };
    (0..600).map(call).collect()
}

fn lines(line: impl Fn(&Call) -> String) -> String {
    calls().iter().fold(String::new(), |mut text, call| {
        let _ = writeln!(text, "{}", line(call));
        text
    })
}

/// The time of a call, by a `strftime` format.
fn time(call: &Call, form: &str) -> String {
    let timestamp = jiff::Timestamp::from_second(START + call.second).expect("a time");
    timestamp.strftime(form).to_string()
}

fn common() -> String {
    lines(|call| {
        let time = time(call, "%d/%b/%Y:%H:%M:%S +0000");
        format!("{} - {} [{time}] \"GET {} HTTP/1.1\" 200 {}", call.ip, call.user, call.path, call.bytes)
    })
}

fn caddy() -> String {
    lines(|call| {
        let user = call.user.trim_matches('-');
        let request =
            json!({ "remote_ip": call.ip, "remote_port": "1", "method": "GET", "host": "x", "uri": call.path });
        let ts = (START + call.second) as f64;
        json!({ "level": "info", "ts": ts, "request": request, "user_id": user, "size": call.bytes, "status": 200 })
            .to_string()
    })
}

fn traefik() -> String {
    lines(|call| {
        json!({
            "ClientAddr": format!("[{}]:80", call.ip), "ClientHost": call.ip, "ClientUsername": call.user, "RequestPath": call.path,
            "DownstreamContentSize": call.bytes, "StartUTC": time(call, "%Y-%m-%dT%H:%M:%SZ"), "time": time(call, "%Y-%m-%dT%H:%M:%SZ"),
        })
        .to_string()
    })
}

fn alb() -> String {
    lines(|call| {
        let time = time(call, "%Y-%m-%dT%H:%M:%S.000000Z");
        let request = format!("\"GET https://x.test:443{} HTTP/1.1\"", call.path);
        format!(
            "https {time} app/lb/1 [{}]:2817 10.0.0.1:80 0.0 0.0 0.0 200 200 0 {} {request} \"curl\" - - arn \"Root=1\" \"x.test\" \"-\" 0 {time} \"forward\"",
            call.ip, call.bytes
        )
    })
}

fn w3c() -> String {
    let fields = "#Software: IIS\n#Fields: date time cs-uri-stem cs-username c-ip sc-status sc-bytes\n";
    let rest = lines(|call| {
        let path = call.path.split('?').next().expect("a path");
        format!("{} {path} {} {} 200 {}", time(call, "%Y-%m-%d %H:%M:%S"), call.user, call.ip, call.bytes)
    });
    format!("{fields}{rest}")
}

fn csv() -> String {
    let rest = lines(|call| {
        let time = time(call, "%Y-%m-%dT%H:%M:%S+00:00");
        format!("{},{},\"{time}\",\"{}\",{}", call.ip, call.user, call.path, call.bytes)
    });
    format!("client,user,when,path,bytes\n{rest}")
}

fn ndjson() -> String {
    lines(|call| {
        json!({ "at": { "unix": (START + call.second) * 1000 }, "ip": call.ip, "user": call.user, "path": call.path, "bytes": call.bytes })
            .to_string()
    })
}

/// The part of the report that must be the same for each format.
fn outcome(report: &Value) -> (Value, Vec<Value>) {
    let candidate = &report["candidates"][0];
    (
        json!([report["calls"], report["clients"], report["from"], report["to"]]),
        ["denied", "clients_denied", "most_denied", "curve", "denied_over_time"]
            .map(|name| candidate[name].clone())
            .to_vec(),
    )
}

#[test]
fn the_same_calls_in_every_format_are_decided_alike() {
    let folder = Folder::new();
    let time = ["--time", "at.unix"];
    let formats: [(&str, String, &[&str], &[&str]); 7] = [
        ("common", common(), &[], &["ip", "user", "path"]),
        ("caddy", caddy(), &[], &["ip", "user", "path"]),
        ("traefik", traefik(), &[], &["ip", "user", "path"]),
        ("alb", alb(), &[], &["ip", "path"]),
        ("w3c", w3c(), &[], &["ip", "user", "path"]),
        ("csv", csv(), &["--time", "when"], &["ip", "user", "path"]),
        ("json", ndjson(), &time, &["ip", "user", "path"]),
    ];
    for key in ["ip", "user", "path", "ip,path", "ip,user", "none"] {
        let mut first = None;
        for (format, text, options, columns) in &formats {
            if key != "none" && !key.split(',').all(|column| columns.contains(&column)) {
                continue;
            }
            let log = folder.file(&format!("{format}.log"), text);
            let report = folder.report(&[&[log.as_str(), "--limit", "2/10s", "--key", key], *options].concat());
            assert_eq!(report["logs"][0]["format"], *format);
            assert_eq!(number(&report["logs"][0]["unparsed"]), 0, "{format}");
            let outcome = outcome(&report);
            assert!(outcome.1[0].as_u64() > Some(0), "{key} tells nothing");
            assert_eq!(first.get_or_insert_with(|| outcome.clone()), &outcome, "{format}, {key}");
        }
    }
    // Bytes as permits, by brute force.
    let network = |ip: &str| ip.split_once("::").map_or(ip.to_owned(), |(network, _)| format!("{network}::/64"));
    let costs: Vec<_> = calls()
        .iter()
        .map(|call| (u64::try_from(call.second).expect("small"), network(&call.ip), call.bytes))
        .collect();
    let denied = oracle::denied(&costs, &[Limit::Sliding { count: 60, per: 10 }]).len();
    assert!(denied > 10);
    for (format, text, options, _) in &formats {
        let log = folder.file(&format!("{format}.log"), text);
        let report = folder.report(&[&[log.as_str(), "--limit", "60/10s", "--cost", "bytes"], *options].concat());
        assert_eq!(number(&report["candidates"][0]["denied"]), denied as u64, "{format}");
    }
}

#[test]
fn plain_times_are_one_client() {
    let folder = Folder::new();
    let whole = folder.file("common.log", common());
    let expected = outcome(&folder.report(&[&whole, "--limit", "6/10s", "--key", "none"]));
    for form in ["%s", "%Y-%m-%d %H:%M:%S", "%d/%b/%Y:%H:%M:%S +0000", "%a, %d %b %Y %H:%M:%S +0000"] {
        let log = folder.file("times.log", lines(|call| time(call, form)));
        for key in [&[][..], &["--key", "none"]] {
            let report = folder.report(&[&[log.as_str(), "--limit", "6/10s"], key].concat());
            assert_eq!(report["logs"][0]["format"], "times");
            assert_eq!(outcome(&report), expected, "{form}");
        }
    }
    assert!(folder.failure(&["times.log", "--limit", "6/10s", "--key", "user"]).contains("has no columns"));
}

#[test]
fn logs_are_unpacked_from_files_and_from_standard_input() {
    let folder = Folder::new();
    let text = common();
    let plain = folder.file("plain.log", &text);
    let limit = ["--limit", "6/10s"];
    let expected = outcome(&folder.report(&[&[plain.as_str()], &limit[..]].concat()));
    let half = text.match_indices('\n').nth(300).expect("lines").0 + 1;
    let gzip = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).expect("gzip");
        encoder.finish().expect("gzip")
    };
    let zstd = |text: &str| zstd::encode_all(text.as_bytes(), 1).expect("zstd");
    // A skippable frame, as parallel tools write it.
    let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4][..], &zstd(&text)].concat();
    for (name, packed, compression) in [
        ("gzip", gzip(&text), json!("gzip")),
        ("two members", [gzip(&text[..half]), gzip(&text[half..])].concat(), json!("gzip")),
        ("zstd", zstd(&text), json!("zstd")),
        ("two frames", [zstd(&text[..half]), zstd(&text[half..])].concat(), json!("zstd")),
        ("a skipped frame", skipped, json!("zstd")),
        ("windows", format!("\u{feff}{}", text.replace('\n', "\r\n")).into_bytes(), Value::Null),
        ("no last newline", text.trim_end().as_bytes().to_vec(), Value::Null),
    ] {
        let log = folder.file(name, &packed);
        let report = folder.report(&[&[log.as_str()], &limit[..]].concat());
        assert_eq!(report["logs"][0]["compression"], compression, "{name}");
        assert_eq!(outcome(&report), expected, "{name}");
        for dash in [&["-"][..], &[]] {
            assert_eq!(outcome(&folder.report_of(&[dash, &limit[..]].concat(), &packed)), expected, "{name}");
        }
    }
}

#[test]
fn several_logs_are_merged_by_time() {
    let folder = Folder::new();
    let text = common();
    let whole = folder.file("whole.log", &text);
    let expected = outcome(&folder.report(&[&whole, "--limit", "6/10s"]));
    // Two servers, one of which writes JSON; and a rotated log, named in the wrong order.
    let every_other = |text: &str, first: usize| {
        text.lines().skip(first).step_by(2).fold(String::new(), |all, line| all + line + "\n")
    };
    let (one, other) = (folder.file("one", every_other(&text, 0)), folder.file("other", every_other(&caddy(), 1)));
    let report = folder.report(&[&one, &other, "--limit", "6/10s"]);
    assert_eq!(report["logs"][1]["format"], "caddy");
    assert_eq!(outcome(&report).0, expected.0);
    let half = text.match_indices('\n').nth(300).expect("lines").0 + 1;
    let (old, new) = (folder.file("log.1", &text[..half]), folder.file("log", &text[half..]));
    let report = folder.report(&[&new, &old, "--limit", "6/10s"]);
    assert_eq!(outcome(&report).0, expected.0);
    assert_eq!(number(&report["order"]["too_late"]), 0);
    assert_eq!(report["candidates"][0]["clients_denied"], expected.1[1]);
}

#[test]
fn columns_of_any_name_and_headers_are_keys() {
    let folder = Folder::new();
    let combined = lines(|call| {
        let time = time(call, "%d/%b/%Y:%H:%M:%S +0000");
        format!(
            "{} - - [{time}] \"GET / HTTP/1.1\" 200 5 \"-\" \"agent {}\" \"{}\"",
            call.ip,
            call.second % 5,
            call.user
        )
    });
    let log = folder.file("combined.log", combined);
    let clients = |key: &str| number(&folder.report(&[&log, "--limit", "6/10s", "--key", key])["clients"]);
    assert_eq!([clients("header:user-agent"), clients("column:10"), clients("10"), clients("status")], [5, 3, 3, 1]);
    let log = folder.file("caddy.log", caddy());
    let clients = |key: &str| number(&folder.report(&[&log, "--limit", "6/10s", "--key", key])["clients"]);
    assert_eq!([clients("request.host"), clients("user_id")], [1, 3]);
    let log = folder.file("log.csv", csv());
    let report = folder.report(&[&log, "--limit", "6/10s", "--time", "3", "--key", "2"]);
    assert_eq!(
        (number(&report["clients"]), number(&report["logs"][0]["unparsed"])),
        (3, 1),
        "the header is a line too"
    );
    let message = folder.failure(&[&log, "--limit", "6/10s", "--time", "when", "--key", "tenant"]);
    assert!(
        message.contains("no column `tenant`") && message.contains("its columns are client, user, when"),
        "{message}"
    );
}

#[test]
fn the_table_has_a_column_for_each_candidate() {
    let folder = Folder::new();
    let log = folder.file("common.log", common());
    let output = folder.replay(&[&log, "--limit", "6/10s", "--limit", "100/1m", "--suggest", "0"]);
    let text = stdout(&output);
    let row = |name: &str| -> Vec<String> {
        let line =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no row `{name}` in {text}"));
        line[name.len()..].split("  ").map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).collect()
    };
    let report = folder.report(&[&log, "--limit", "6/10s", "--limit", "100/1m"]);
    let both = |name: &str| [0, 1].map(|position| report["candidates"][position][name].to_string()).to_vec();
    assert_eq!(row("calls denied"), both("denied"));
    assert_eq!(row("clients ever denied"), both("clients_denied"));
    assert_eq!(row("peak of keys in memory"), both("peak_keys"));
    assert!(text.contains("Most denied by 6/10s") && text.contains("token_bucket"), "{text}");
}
