//! Bad input, lines out of order, escaping.

use serde_json::Value;

use crate::support::{Folder, number, stderr, stdout};

const LIMIT: [&str; 2] = ["--limit", "2/10s"];

/// A line of a common log, this many seconds after midnight.
fn line(second: u64, client: &str) -> String {
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{client} - - [02/Jul/2026:{hour:02}:{minute:02}:{second:02} +0000] \"GET / HTTP/1.1\" 200 5\n")
}

fn log(calls: impl IntoIterator<Item = (u64, &'static str)>) -> String {
    calls.into_iter().map(|(second, client)| line(second, client)).collect()
}

#[test]
fn a_file_in_no_known_format_is_refused() {
    let folder = Folder::new();
    folder.file("empty", "");
    folder.file("blank", "\n \r\n");
    folder.file("binary", b"\x7fELF\x02\x01\x01\x00\x00\x00");
    folder.file(
        "syslog",
        "Jul  2 22:23:00 host sshd[7]: Accepted publickey for ann from 192.0.2.1 port 4711\n".repeat(20),
    );
    folder.file("prose", "There is no log here.\nNone at all.\n");
    folder.file("words.csv", "a,b\n1,2\n");
    folder.file("objects", "{\"a\":1}\n");
    std::fs::create_dir(folder.path().join("directory")).expect("a directory");
    for (name, part) in [
        ("empty", "empty is empty"),
        ("blank", "blank is empty"),
        ("binary", "binary is binary"),
        ("syslog", "syslog is no log of a known format"),
        ("prose", "prose is no log of a known format"),
        ("words.csv", "name the one with the time by `--time`"),
        ("objects", "no known column with a time"),
        ("directory", "directory is a directory"),
    ] {
        let message = folder.failure(&[&[name], &LIMIT[..]].concat());
        assert!(message.contains(part), "{message}");
        for format in ["common and combined", "caddy", "traefik", "alb", "w3c", "csv", "json", "times", "gzip", "zstd"]
        {
            assert!(message.contains(format), "{format}: {message}");
        }
    }
    assert_eq!(folder.names().len(), 8, "something was written");
}

#[test]
fn other_mistakes_are_one_sentence_too() {
    let folder = Folder::new();
    folder.file("log", log([(1, "a")]));
    folder.file("log.bz2", b"BZh91AY&SY");
    folder.file("log.xz", b"\xfd7zXZ\0\0");
    folder.file("log.json", "{\"time\":1700000000,\"ip\":\"192.0.2.1\"}\n");
    for (arguments, part) in [
        (&["missing", "--limit", "2/10s"][..], "missing cannot be opened"),
        (&["log"], "say what to try"),
        (&["log.bz2", "--limit", "2/10s"], "bzip2 -dc"),
        (&["log.xz", "--limit", "2/10s"], "xz -dc"),
        (&["log", "--limit", "2/10s", "--key", "tenant"], "no column `tenant`"),
        (&["log", "--limit", "2/10s", "--key", "host"], "no column `host`"),
        (&["log", "--limit", "2/10s", "--key", "header:user-agent"], "no column `header:user-agent`"),
        (&["log", "--limit", "2/10s", "--key", "10"], "no column `10`"),
        (&["log", "--limit", "2/10s", "--key", "10", "--format", "common"], "no column `10`"),
        (&["log", "--limit", "2/10s", "--time", "when"], "`--time when` names a column"),
        (&["log", "--limit", "2/10s", "--key", "ip,none"], "stands alone"),
        (&["log", "--limit", "2/10s", "--format", "caddy"], "no line of the format caddy"),
        (&["log.json", "--limit", "2/10s", "--key", "tenant"], "no column `tenant`"),
        (&["log", "--limit", "2/10s", "--html", "none/page.html"], "none/page.html cannot be written"),
        (&["-", "-", "--limit", "2/10s"], "read once"),
        (&["log", "--limit", "2/10s", "--json", "-", "--html", "-"], "for one report"),
    ] {
        let message = folder.failure(arguments);
        assert!(message.contains(part), "{arguments:?}: {message}");
    }
    let output = folder.replay(&["log", "--limit", "2/10q"]);
    assert!(!output.status.success() && stderr(&output).contains("not a duration"), "{}", stderr(&output));
}

#[test]
fn unparsed_lines_are_counted_and_the_first_is_shown() {
    let folder = Folder::new();
    let mut text = log([(1, "a"), (2, "a"), (3, "a")]);
    for number in 0..7 {
        text.extend(["broken ", &number.to_string(), "\n"]);
    }
    text += "192.0.2.1 - - [99/Jul/2026:00:00:04 +0000] \"GET / HTTP/1.1\" 200 5\n\n";
    text.extend([&"x".repeat(70_000), "\n"]);
    text += &line(4, "a");
    // Longer than one read, at the end of a log without a newline.
    text += &"y".repeat(3 << 20);
    folder.file("log", &text);
    let report = folder.report(&[&["log"], &LIMIT[..]].concat());
    let log = &report["logs"][0];
    let counts = ["lines", "calls", "unparsed", "blank", "longer_than_64_kib"].map(|name| number(&log[name]));
    assert_eq!(counts, [15, 4, 8, 1, 2]);
    let shown = log["first_unparsed"].as_array().expect("lines");
    assert_eq!(shown.len(), 5);
    assert_eq!((number(&shown[0]["line"]), shown[0]["text"].as_str()), (4, Some("broken 0")));
    assert_eq!(shown[0]["reason"], "there is no time in brackets");
    let table = stdout(&folder.replay(&[&["log"], &LIMIT[..]].concat()));
    assert!(table.contains("line 4: there is no time in brackets: broken 0"), "{table}");
    assert!(table.contains("and 3 more") && table.contains("longer than 64 KiB"), "{table}");
}

#[test]
fn a_line_of_64_kib_is_read_wherever_blocks_end() {
    let folder = Folder::new();
    let long = |length: usize| {
        let line = line(1, "a");
        let line = line.trim_end();
        format!("{line} \"{}\"\n", "z".repeat(length - line.len() - 3))
    };
    // A block is 1 MiB: a line crosses its end at every offset that matters.
    for offset in [0, 1, 77, 65_535, 65_536, 65_537] {
        let mut text = long(200 + offset % 50_000);
        while text.len() < (1 << 20) - 65_600 + offset {
            text += &line(1, "b");
        }
        text += &long(65_536);
        text += &line(1, "c");
        text += &long(65_537);
        text += &line(1, "d");
        folder.file("log", &text);
        let report = folder.report(&[&["log"], &LIMIT[..]].concat());
        let read = &report["logs"][0];
        let lines = text.lines().count() as u64;
        assert_eq!(
            ["lines", "calls", "longer_than_64_kib", "unparsed"].map(|name| number(&read[name])),
            [lines, lines - 1, 1, 0]
        );
    }
}

#[test]
fn a_truncated_log_is_reported_and_fails() {
    let folder = Folder::new();
    let text = log((0..20_000).map(|second| (second, "a")));
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut encoder, text.repeat(3).as_bytes()).expect("gzip");
    let packed = encoder.finish().expect("gzip");
    folder.file("log.gz", &packed[..packed.len() * 3 / 4]);
    let output = folder.replay(&[&["log.gz"], &LIMIT[..]].concat());
    assert!(!output.status.success());
    assert!(stderr(&output).contains("log.gz cannot be read on from line"), "{}", stderr(&output));
    assert!(stdout(&output).contains("calls denied"), "{}", stdout(&output));
}

#[test]
fn a_log_out_of_order_is_decided_as_if_it_were_in_order() {
    let folder = Folder::new();
    let ordered: Vec<(u64, &str)> =
        (0..40_000).map(|call| (call / 7, ["a", "b", "c", "d", "e"][(call % 5) as usize])).collect();
    let mut shuffled = ordered.clone();
    for chunk in shuffled.chunks_mut(35) {
        chunk.sort_by_key(|(second, _)| second * 7_919 % 10);
    }
    folder.file("ordered", log(ordered.clone()));
    folder.file("shuffled", log(shuffled));
    let decided = |name: &str, window: &str| folder.report(&[&[name, "--window", window], &LIMIT[..]].concat());
    let (one, other) = (decided("ordered", "10s"), decided("shuffled", "10s"));
    assert_eq!((number(&one["order"]["out_of_order"]), number(&other["order"]["too_late"])), (0, 0));
    assert!(number(&other["order"]["out_of_order"]) > 1_000);
    for name in ["denied", "clients_denied", "most_denied", "denied_over_time", "peak_keys"] {
        assert_eq!(one["candidates"][0][name], other["candidates"][0][name], "{name}");
    }
    let with_late = [&ordered[..39_999], &[(5, "late"), (39_999 / 7, "a")]].concat();
    folder.file("late", log(with_late));
    let late = decided("late", "10s");
    assert_eq!((number(&late["order"]["out_of_order"]), number(&late["order"]["too_late"])), (1, 1));
    assert_eq!(number(&late["calls"]), 40_001, "a call that comes too late is decided all the same");
    let wide = decided("late", "2h");
    assert_eq!((number(&wide["order"]["out_of_order"]), number(&wide["order"]["too_late"])), (1, 0));
}

#[test]
fn calls_of_one_time_keep_the_order_of_the_log() {
    let folder = Folder::new();
    let text = "time,user,cost\n100,a,3\n100,a,2\n100,a,1\n";
    folder.file("log", text);
    let denied = |limit: &str| {
        let report = folder.report(&["log", "--key", "user", "--cost", "cost", "--limit", limit]);
        number(&report["candidates"][0]["denied"])
    };
    // 3 fits, then 2 does not, then 1 does.
    assert_eq!([denied("4/1m"), denied("5/1m"), denied("3/1m"), denied("6/1m")], [1, 1, 2, 0]);
}

#[test]
fn invalid_costs_are_counted() {
    let folder = Folder::new();
    folder.file("log", "time,user,cost\n1,a,x\n2,a,-\n3,a,\n4,a,1.2\n5,a,99999999999\n6,a,-7\n");
    let report = folder.report(&["log", "--key", "user", "--cost", "cost", "--limit", "4/1m"]);
    // 1 for `x`, nothing, nothing, 2, far too much, 1.
    assert_eq!((number(&report["odd_costs"]), number(&report["candidates"][0]["denied"])), (3, 1));
    assert_eq!(report["candidates"][0]["demand"]["largest"], Value::from(u64::from(u32::MAX) + 4));
}

#[test]
fn text_from_a_log_is_escaped_everywhere() {
    let folder = Folder::new();
    let evil = "</script><img src=x onerror=document.title=1>\u{1b}[31m\u{202e}'\"";
    let call = serde_json::json!({ "time": 1_700_000_000, "user": evil }).to_string();
    folder.file("log", format!("{call}\n{call}\n{call}\n{{\"user\":\"{evil}\n"));
    let arguments = ["log", "--key", "user", "--limit", "1/1h", "--html", "page.html", "--json", "report.json"];
    let table = stdout(&folder.replay(&arguments));
    assert!(table.contains("\\u{1b}[31m\\u{202e}"), "{table}");
    assert!(!table.contains('\u{1b}') && !table.contains('\u{202e}'), "{table}");
    let page = folder.read("page.html");
    assert!(page.contains("&lt;/script&gt;&lt;img src=x"), "{page}");
    assert!(
        !page.contains("<img") && !page.contains("<script") && !page.contains("</script") && !page.contains('\u{1b}')
    );
    let report: Value = serde_json::from_str(&folder.read("report.json")).expect("JSON");
    assert_eq!(report["candidates"][0]["most_denied"][0]["client"], evil);
    assert!(!folder.read("report.json").contains('\u{1b}'));
    // A name given by the user is shown too.
    let name = "\u{1b}[2J.log";
    folder.file(name, log([(1, "a")]));
    assert!(!stdout(&folder.replay(&[&[name], &LIMIT[..]].concat())).contains('\u{1b}'));
    assert!(!folder.failure(&["\u{1b}[2J", "--limit", "1/1s"]).contains('\u{1b}'));
}

#[test]
fn anonymized_reports_name_no_address_and_no_user() {
    let folder = Folder::new();
    let text = "time,ip,user,path,token\n".to_owned()
        + &"1,192.0.2.77,ann,/x,s3cret\n2,192.0.2.88,bob,/x,t0ken\n".repeat(9)
        + "192.0.2.77 ann s3cret\n";
    folder.file("log", text);
    for key in ["ip", "user", "token", "ip,user,path"] {
        let arguments = ["log", "--key", key, "--limit", "3/1h", "--anonymize", "--html", "page", "--json", "json"];
        let output = folder.replay(&arguments);
        for text in [stdout(&output), folder.read("page"), folder.read("json")] {
            for personal in ["192.0.2", "ann", "bob", "s3cret", "t0ken"] {
                assert!(
                    !text.replace("candidate", "").replace("scanned", "").contains(personal),
                    "{key}: {personal} in {text}"
                );
            }
            assert!(text.contains(&format!("{} 1", key.split(',').next().expect("a column"))), "{key}: {text}");
        }
    }
    assert!(folder.read("page").contains("user 2 · /x"), "a path stays");
}

#[test]
fn only_named_files_are_written() {
    let folder = Folder::new();
    folder.file("log", log([(1, "a"), (2, "a"), (3, "a")]));
    folder.replay(&[&["log"], &LIMIT[..]].concat());
    assert_eq!(folder.names(), ["log"]);
    folder.replay(&[&["log", "--html", "a.html", "--json", "b.json"], &LIMIT[..]].concat());
    assert_eq!(folder.names(), ["a.html", "b.json", "log"]);
    let page = stdout(&folder.replay(&[&["log", "--html", "-"], &LIMIT[..]].concat()));
    assert!(page.starts_with("<!doctype html>") && page.ends_with("</html>\n"), "{page}");
    assert_eq!(folder.names(), ["a.html", "b.json", "log"]);
}
