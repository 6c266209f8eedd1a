//! The replay tool, run like a user runs it.

#![expect(clippy::cast_precision_loss, reason = "shares and seconds")]

#[path = "../../tests/dashboard/browser.rs"]
#[allow(dead_code, reason = "the dashboard is clicked on, the page is not")]
mod browser;
mod formats;
mod golden;
mod input;
mod oracle;
mod page;
mod pictures;
mod support;
