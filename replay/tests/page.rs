//! The page, as a browser shows it.

use crate::browser::Browser;
use crate::support::{Folder, number, server_log};

#[test]
fn the_page_shows_the_report_and_needs_nothing_else() {
    let folder = Folder::new();
    let log = server_log("nginx.log.gz");
    let arguments =
        [&log, "--limit", "30/1m", "--limit", "5/1s+50/1m", "--suggest", "5%", "--wait=1s", "--html", "page.html"];
    let report = folder.report(&arguments);

    let browser = Browser::start();
    browser.open(&format!("file://{}/page.html", folder.path().display()));
    assert_eq!(browser.text("h1"), "What each limit would have done");
    let denied = |position: usize| number(&report["candidates"][position]["denied"]).to_string();
    let table = browser.text("#candidates");
    let row = table.lines().find(|line| line.starts_with("calls denied")).expect("a row");
    let cells: Vec<String> = row.split('\t').skip(1).map(|cell| cell.replace(',', "")).collect();
    assert_eq!(cells, [denied(0), denied(1)]);
    assert!(browser.text("#suggestions").contains("token_bucket"));

    // Calls over time, a curve for each candidate, the demand for each period: all are drawn,
    // within the page.
    let drawn = browser.run(
        "return [...document.querySelectorAll('svg')].map(svg => {
             const box = svg.getBoundingClientRect();
             return [box.width > 300 && box.right <= innerWidth, svg.querySelectorAll('polyline, circle, rect').length]
         })",
    );
    let drawn: Vec<(bool, u64)> = serde_json::from_value(drawn).expect("charts");
    assert_eq!(drawn.len(), 5);
    assert!(drawn.iter().all(|(fits, shapes)| *fits && *shapes > 3), "{drawn:?}");
    // As many bars as steps with calls, and a point for each count of the curve.
    let steps =
        report["timeline"]["calls"].as_array().expect("counts").iter().filter(|calls| number(calls) > 0).count();
    let bars = browser.run("return document.querySelectorAll('svg')[0].querySelectorAll('rect.calls').length");
    assert_eq!(number(&bars), steps as u64);
    let points = browser.run("return document.querySelectorAll('svg')[1].querySelectorAll('circle').length");
    assert_eq!(number(&points), report["candidates"][0]["curve"].as_array().expect("points").len() as u64);

    let loaded = browser.run("return performance.getEntriesByType('resource').length + document.scripts.length");
    assert_eq!(number(&loaded), 0, "the page needs something else");
    browser.picture("replay");
}

#[test]
fn a_page_of_a_hostile_log_runs_nothing() {
    let folder = Folder::new();
    let evil =
        "\"></title></svg></script><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">";
    let call = serde_json::json!({ "time": 1_700_000_000, "user": evil }).to_string();
    folder.file("<b>log", format!("{call}\n{call}\n{{\"user\":\"{evil}\"}}\n"));
    folder.replay(&["<b>log", "--key", "user", "--limit", "1/1h", "--html", "page.html"]);
    let browser = Browser::start();
    browser.open(&format!("file://{}/page.html", folder.path().display()));
    let state = browser.run("return [document.title, document.querySelectorAll('script, img, b').length]");
    assert_eq!(state, serde_json::json!(["What each limit would have done", 0]));
    assert!(browser.text("body").contains("<script>document.title='run'</script>"), "it is shown as text");
}
