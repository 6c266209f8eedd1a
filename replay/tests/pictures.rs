//! The pictures in the docs match the code. `UPDATE_PICTURES=1` redraws them.

use std::path::Path;

use crate::support::server_log;

#[track_caller]
fn assert_up_to_date(name: &str, drawn: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("UPDATE_PICTURES").is_some() {
        std::fs::write(&path, drawn).expect("a picture");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == drawn,
        "docs/{name} is out of date: UPDATE_PICTURES=1 cargo test -p ratelimit-replay pictures"
    );
}

#[test]
fn the_picture_of_the_algorithms_is_up_to_date() {
    assert_up_to_date("algorithms.svg", &ratelimit_replay::algorithms());
}

#[test]
fn the_picture_of_a_replay_is_up_to_date() {
    let log = server_log("nginx.log.gz");
    // `--json` adds the curves; this call writes nothing.
    let arguments = [&log, "--limit", "30/10s", "--limit", "60/1m token_bucket", "--json", "-"];
    assert_up_to_date("replay.svg", &ratelimit_replay::picture_of(&arguments).expect("a picture"));
}
