//! The page as a whole. What it looks like was looked at; here is what must not break unseen.

use super::*;
use crate::lock_checks::{LockRecord, TokenScope, fencing};
use crate::models::{KeyValue, Register};
use crate::{Budget, FailMeaning, Settings, check, format};

fn history(lines: &str) -> History {
    format::read_edn(lines.as_bytes(), FailMeaning::DidNotHappen).unwrap()
}

fn page(history: &History, options: TimelineOptions) -> String {
    let report = check(
        &Register::default(),
        history,
        &Settings::default(),
        &Budget::GENEROUS,
    );
    Page::of_report("a file", history, &report.unwrap(), options).to_string()
}

fn count(page: &str, words: &str) -> usize {
    page.matches(words).count()
}

/// A stale read, with values that would break a page that does not escape.
const STALE_READ: &str = r#"
    {:process 0 :type :invoke :f :write :value "<script>alert('x')</script>" :time 1000}
    {:process 0 :type :ok :f :write :value "<script>alert('x')</script>" :time 2000}
    {:process :nemesis :type :info :f :start-partition :value "\"><img src=x>" :time 2500}
    {:process 1 :type :invoke :f :write :value "b\" & c" :time 3000}
    {:process 2 :type :invoke :f :read :value nil :time 4000}
    {:process :leader :type :info :f :elected :value "n1" :time 4500}
    {:process 2 :type :ok :f :read :value "</style>" :time 5000}
    {:process :nemesis :type :info :f :stop-partition :value nil :time 6000}"#;

#[test]
fn what_a_history_says_is_escaped() {
    let page = page(&history(STALE_READ), TimelineOptions::default());
    assert!(
        page.contains("&#60;script&#62;alert(&#39;x&#39;)"),
        "the value is not shown"
    );
    assert_eq!(count(&page, "<script"), 1, "only the page's own");
    assert_eq!(count(&page, "</style>"), 1, "only the page's own");
    assert_eq!(count(&page, "<img"), 0);
    assert!(page.contains("b\\&#34; &#38; c"));
}

#[test]
fn the_page_loads_nothing_from_anywhere() {
    let page = page(&history(STALE_READ), TimelineOptions::default());
    for reference in [
        "http:", "https:", "src=\"", "href=", "url(", "@import", "//cdn", "fetch(",
    ] {
        assert_eq!(count(&page, reference), 0, "{reference}");
    }
}

#[test]
fn the_page_shows_the_verdict_the_stuck_operation_and_why_nothing_comes_next() {
    let page = page(&history(STALE_READ), TimelineOptions::default());
    assert!(page.contains("<span class=\"verdict invalid\">invalid</span>"));
    assert!(page.contains("The shortest illegal prefix ends at <b>line 8</b>"));
    assert_eq!(count(&page, "class=\"bar ok stuck\""), 1);
    assert_eq!(
        count(&page, "<g class=\"bar "),
        3,
        "a bar for each operation"
    );
    assert_eq!(count(&page, ">process "), 3, "a row for each process");
    assert!(page.contains("class=\"refused\""));
    assert!(count(&page, "<circle") >= 1);
}

#[test]
fn faults_and_leaders_have_lanes() {
    let page = page(&history(STALE_READ), TimelineOptions::default());
    assert_eq!(count(&page, "<g class=\"span fault\""), 1);
    assert!(
        page.contains("from line 4, 0.000002 s\nto line 9, 0.000005 s"),
        "{page}"
    );
    assert_eq!(count(&page, "<g class=\"span leader\""), 1);
    assert!(page.contains("data-title=\"leader: n1\""));
}

#[test]
fn of_a_big_history_what_is_around_the_error_is_drawn() {
    let mut lines = String::new();
    for value in 0..3_000 {
        let read = if value == 2_000 { 1_998 } else { value };
        lines.push_str(&format!(
            "{{:process 0 :type :invoke :f :write :value {value}}}\n\
             {{:process 0 :type :ok :f :write :value {value}}}\n\
             {{:process 1 :type :invoke :f :read :value nil}}\n\
             {{:process 1 :type :ok :f :read :value {read}}}\n"
        ));
    }
    let options = TimelineOptions {
        most_operations: 100,
        ..TimelineOptions::default()
    };
    let page = page(&history(&lines), options);
    let bars = count(&page, "<g class=\"bar ");
    assert!((95..=105).contains(&bars), "{bars}");
    assert_eq!(count(&page, "class=\"bar ok stuck\""), 1);
    assert!(page.contains("of 6000 operations are drawn: those around the first error"));
    assert!(page.len() < 400_000, "{} bytes", page.len());
}

#[test]
fn a_valid_history_is_drawn_with_the_order_that_proves_it() {
    let text = STALE_READ.replace("\"</style>\"", "\"b\\\" & c\"");
    let page = page(&history(&text), TimelineOptions::default());
    assert!(page.contains("<span class=\"verdict valid\">valid</span>"));
    assert_eq!(count(&page, "<circle"), 3);
    assert_eq!(count(&page, "class=\"bar ok stuck\""), 0);
}

#[test]
fn points_stand_in_their_bars_in_order() {
    let history = history(STALE_READ);
    let report = check(
        &Register::default(),
        &history,
        &Settings::default(),
        &Budget::GENEROUS,
    )
    .unwrap();
    let picture = timeline(&history, &report.partitions[0], TimelineOptions::default());
    for order in &picture.orders {
        assert!(order.points.windows(2).all(|pair| pair[0].x < pair[1].x));
        for point in &order.points {
            let bar = picture
                .bars
                .iter()
                .find(|bar| bar.operation == point.operation)
                .unwrap();
            assert!(bar.x < point.x && point.x < bar.x + bar.width);
        }
    }
}

#[test]
fn parts_and_checks_have_tables_and_the_violated_part_is_drawn() {
    let history = history(
        r#"{:process 0 :type :invoke :f :put :key "x" :value "1"}
           {:process 0 :type :ok :f :put :key "x" :value "1"}
           {:process 0 :type :invoke :f :get :key "y" :value nil}
           {:process 0 :type :ok :f :get :key "y" :value "1"}"#,
    );
    let report = check(&KeyValue, &history, &Settings::default(), &Budget::GENEROUS).unwrap();
    let checks = [fencing(
        &LockRecord::read(&history).unwrap(),
        TokenScope::Lock,
    )];
    let page = Page::new("run 7", PageVerdict::Unknown, "Too little happened.")
        .with_fact("seed", "7")
        .with_checks(&checks)
        .with_report("Keys", &history, &report, TimelineOptions::default())
        .to_string();
    assert!(page.contains("<title>unknown: run 7</title>"));
    assert!(page.contains("<dt>seed</dt><dd>7</dd>"));
    assert!(page.contains("the history grants no lock"));
    assert!(page.contains("All 2 parts"));
    assert_eq!(count(&page, "<article"), 1);
    assert!(page.contains("get &#34;y&#34; -&#62; &#34;1&#34;"));
}

#[test]
fn a_fragment_is_what_the_page_shows_of_its_report() {
    let history = history(STALE_READ);
    let report = check(
        &Register::default(),
        &history,
        &Settings::default(),
        &Budget::GENEROUS,
    )
    .unwrap();
    let options = TimelineOptions::default();
    let fragment = Fragment::of_report("", &history, &report, options).to_string();
    assert!(fragment.contains("class=\"violation\""));
    assert!(page(&history, options).contains(fragment.trim()));
}
