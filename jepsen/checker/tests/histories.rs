//! Which histories are accepted, in which format, and what is said of those that are not.

use jepsen_checker::format::{self, Format, ReadError, WriteError};
use jepsen_checker::models::AnyModel;
use jepsen_checker::{
    Budget, Event, EventKind, FailMeaning, History, Outcome, Position, Process, Settings, Value,
};
use proptest::prelude::*;

fn edn(text: &str) -> Result<History, ReadError> {
    format::read_edn(text.as_bytes(), FailMeaning::DidNotHappen)
}

/// The line and the words of a refusal.
fn refusal(result: Result<History, ReadError>) -> (u64, String) {
    match result {
        Err(ReadError::Malformed(malformed)) => (malformed.line, malformed.problem),
        other => panic!("not malformed: {other:?}"),
    }
}

#[test]
fn edn_of_every_shape_is_read() {
    let history = edn("; a comment
        ({:index 3, :type :invoke :f :cas,
          :value [1 -2] :process 0 :time 5 :unknown #{1 2}}
         #_ {:dropped true}
         #jepsen.history.Op{:process :nemesis, :type :info, :f :start, :value {\"a\" 1.50, :b nil}}
         {:process 0 :type :fail :f cas :value (1 -2) :error [:not-found \"no \\\"x\\\" \\u00e9\"]
          :time 7 :index 9 :request \"r-1\" :position \"12.3\"})")
    .unwrap();
    assert_eq!(history.events().len(), 3);
    let [operation] = history.operations() else {
        panic!("one operation")
    };
    assert_eq!(operation.input, Value::list([1.into(), (-2).into()]));
    assert_eq!(operation.outcome, Outcome::Fail(operation.input.clone()));
    let nemesis = &history.events()[1];
    assert_eq!(nemesis.process, Process::Named("nemesis".into()));
    assert_eq!(
        nemesis.value.field("a"),
        Some(&Value::Decimal("1.50".into()))
    );
    assert_eq!(nemesis.line, 5);
    let failed = history.completion(operation).unwrap();
    assert_eq!(
        failed.error.as_ref().unwrap().to_string(),
        "[:not-found \"no \\\"x\\\" é\"]"
    );
    assert_eq!(
        history.position(operation),
        Some(Position {
            index: 12,
            ordinal: 3
        })
    );
    assert_eq!(history.request(operation).map(|id| &**id), Some("r-1"));
    assert_eq!(failed.recorded_index, Some(9));
}

#[test]
fn json_lines_say_the_same_as_edn() {
    let text = r#"{"process":0,"type":"invoke","f":"acquire","key":"a","value":{"ttl_ms":5},"time":1}
        {"process":"nemesis","type":"info","f":"kill","value":null}

        {"process":0,"type":"ok","f":"acquire","key":"a","value":{"token":7,"x":[1.5,true]},"position":"4.0"}"#;
    let json = format::read_json_lines(text.as_bytes(), FailMeaning::DidNotHappen).unwrap();
    let edn = edn(r#"{:process 0 :type :invoke :f :acquire :key "a" :value {"ttl_ms" 5} :time 1}
        {:process :nemesis :type :info :f :kill}
        {:process 0 :type :ok :f :acquire :key "a" :value {"token" 7 "x" [1.5 true]} :position "4.0"}"#)
    .unwrap();
    let values = |history: &History| {
        history
            .operations()
            .iter()
            .map(|o| (o.input.clone(), o.outcome.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(values(&json), values(&edn));
    assert_eq!(json.events()[2].line, 4);
}

#[test]
fn malformed_histories_are_refused_with_the_line_and_what_is_wrong() {
    let invoke = "{:process 0 :type :invoke :f :read :value nil}\n";
    let info = "{:process 0 :type :info :f :read :value nil}\n";
    let cases = [
        (
            format!("{invoke}{invoke}"),
            2,
            "while its `read` of line 1 is under way",
        ),
        (
            format!("{invoke}{info}{invoke}"),
            3,
            "must not do anything again under its old id",
        ),
        (info.to_owned(), 1, "which it did not invoke"),
        (
            invoke.replace(":read", "7"),
            1,
            "`f` is the name of a function, not 7",
        ),
        (
            invoke.replace(":invoke", ":began"),
            1,
            "one of invoke, ok, fail and info, not :began",
        ),
        (
            invoke.replace(":process 0", ":process -1"),
            1,
            "a number from 0 or a name, not -1",
        ),
        (
            invoke.replace(":process 0", ""),
            1,
            "the event has no `process`",
        ),
        (
            format!("{invoke}{}", info.replace(":read", ":write")),
            2,
            "completes `write` but is doing",
        ),
        (format!("\n{invoke}]"), 3, "no value begins with ']'"),
        (format!("[{invoke}"), 2, "the history ends without `]`"),
        (format!("[{invoke}] 1"), 2, "something follows the end"),
        (
            "{:process 0 :process 1}".into(),
            1,
            "the map has :process twice",
        ),
        (
            "{:process 0 :type}".into(),
            1,
            "the map has no value for :type",
        ),
        ("\n\n{:process \"0".into(), 3, "a string has no end"),
        ("7".into(), 1, "an event is a map, not 7"),
        ("[".repeat(100), 1, "values nest deeper than 64"),
        (
            format!(
                "{}{}",
                invoke.replace("}", " :time 9}"),
                info.replace("}", " :time 8}")
            ),
            2,
            "ends at 8 ns, before it began at 9 ns",
        ),
        (
            format!(
                "{}{}",
                invoke.replace("}", " :index 9}"),
                info.replace("}", " :index 9}")
            ),
            2,
            "indexes must rise",
        ),
        (
            invoke.replace("}", " :position \"x\"}"),
            1,
            "two numbers, `index.ordinal`",
        ),
        (
            "{:process :nemesis :type :ok :f :kill :value nil}".into(),
            1,
            "can only say `info`",
        ),
    ];
    for (text, line, words) in cases {
        let (at, problem) = refusal(edn(&text));
        assert!(problem.contains(words), "{text:?}: {problem:?}");
        assert_eq!(at, line, "{text:?}: {problem:?}");
    }
}

#[test]
fn other_formats_name_the_line_too() {
    let json = |text: &str| {
        refusal(format::read_json_lines(
            text.as_bytes(),
            FailMeaning::DidNotHappen,
        ))
    };
    assert_eq!(json("\n{").0, 2);
    assert!(
        json("{\"process\":0,\"process\":0}")
            .1
            .contains("has \"process\" twice")
    );
    let etcd = |text: &str| refusal(format::read_etcd_log(text.as_bytes()));
    assert_eq!(etcd("INFO  jepsen.util - 0 :invoke :read nil\nnoise").0, 2);
    assert!(
        etcd("INFO jepsen.util - 0 :begin :read nil")
            .1
            .contains("\":begin\" is none of")
    );
    assert!(
        etcd("INFO jepsen.util - 0 :invoke :cas [1")
            .1
            .contains("no `]`")
    );
    assert!(
        etcd("INFO jepsen.util - 0 :invoke :read")
            .1
            .contains("a line is `INFO")
    );
    let keyless = "{:process 0 :type :invoke :f :get :value nil}";
    assert!(
        refusal(format::read_kv(keyless.as_bytes()))
            .1
            .contains("no `key`")
    );
    let (line, problem) = refusal(format::read_edn(&b"\n\xff"[..], FailMeaning::DidNotHappen));
    assert_eq!((line, &*problem), (2, "this is not UTF-8 text"));
}

#[test]
fn what_a_format_cannot_express_is_not_written() {
    let keyed = edn("{:process 0 :type :invoke :f :read :key 1 :value nil}").unwrap();
    let keyless = edn("{:process 0 :type :invoke :f :read :value nil}").unwrap();
    for (format, history) in [(Format::Etcd, &keyed), (Format::Kv, &keyless)] {
        let refused = format.write(history, Vec::new());
        assert!(
            matches!(refused, Err(WriteError::Inexpressible { event: 0, .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn what_a_model_does_not_know_is_refused_with_its_line() {
    let check = |model: &str, text: &str| {
        let model: AnyModel = model.parse().unwrap();
        let history = edn(text).unwrap();
        model
            .check(&history, &Settings::default(), &Budget::GENEROUS)
            .unwrap_err()
            .to_string()
    };
    let write = "\n{:process 0 :type :invoke :f :cas :value 3}";
    assert_eq!(
        check("register", write),
        "line 2: a register knows read and write, not `cas`"
    );
    assert_eq!(
        check("cas-register", write),
        "line 2: `cas` takes [from to], not 3"
    );
    let shared = "{:process 0 :type :invoke :f :acquire :value {:mode :shared}}";
    assert_eq!(
        check("fenced-mutex", shared),
        "line 1: a fenced-mutex has no mode \"shared\""
    );
    let locks = "{:process 0 :type :invoke :f :acquire :value {:locks [1 1]}}";
    assert_eq!(
        check("multi-lock", locks),
        "line 1: `locks` of `acquire` has 1 twice"
    );
    let get = "{:process 0 :type :invoke :f :get :value nil}";
    assert_eq!(check("kv", get), "line 1: `get` has no key");
    let renew = "{:process 0 :type :invoke :f :renew :value nil}";
    assert_eq!(
        check("lease-lock", renew),
        "line 1: `renew` names neither a lease nor a lock"
    );
    let timeless = "{:process 0 :type :invoke :f :acquire :value {:lease \"a\"}}";
    assert!(check("lease-lock", timeless).starts_with("line 1: `acquire` has no `time`"));
    assert!(
        "mutexes"
            .parse::<AnyModel>()
            .unwrap_err()
            .contains("fenced-mutex")
    );
    for name in AnyModel::NAMES {
        name.parse::<AnyModel>().unwrap();
    }
}

#[test]
fn a_prefix_leaves_open_what_has_not_ended_in_it() {
    let history =
        edn("{:process 0 :type :invoke :f :read} {:process 0 :type :ok :f :read :value 1}")
            .unwrap();
    assert_eq!(history.operations()[0].outcome, Outcome::Ok(1.into()));
    assert_eq!(history.prefix(1).operations()[0].outcome, Outcome::Info);
    assert!(history.prefix(0).operations().is_empty());
    assert_eq!(history.prefix(9), history);
}

/// Any value that JSON can say; map keys are strings there.
fn any_value(with_keywords: bool) -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Integer),
        any::<f64>()
            .prop_filter("a number", |number| number.is_finite())
            .prop_map(|number| Value::Decimal(format!("{number:?}").into())),
        any::<String>().prop_map(|text| Value::text(&text)),
        "[a-z][a-z0-9-]{0,5}".prop_map(move |name| match with_keywords {
            true => Value::keyword(&name),
            false => Value::text(&name),
        }),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let key = any::<String>().prop_map(|key| Value::text(&key));
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::list),
            prop::collection::vec((key, inner), 0..4).prop_map(Value::map),
        ]
    })
}

/// A client's operation and a remark, with all fields.
fn any_history(with_keywords: bool) -> impl Strategy<Value = History> {
    let value = || any_value(with_keywords);
    (
        value(),
        value(),
        value(),
        value(),
        any::<Option<u32>>(),
        any::<String>(),
    )
        .prop_map(|(key, input, output, error, time, request)| {
            let mut invoke = Event::new(Process::Client(7), EventKind::Invoke, "f", input);
            invoke.key = Some(key).filter(|key| !key.is_nil());
            invoke.time_ns = time.map(u64::from);
            invoke.request = Some(request.into());
            let nemesis = Process::Named("nemesis".into());
            let mut remark = Event::new(nemesis, EventKind::Info, "kill", output.clone());
            remark.recorded_index = time.map(|time| u64::from(time) + 1);
            let mut fail = Event::new(Process::Client(7), EventKind::Fail, "f", output);
            fail.error = Some(error).filter(|error| !error.is_nil());
            fail.time_ns = time.map(|time| u64::from(time) + 1);
            fail.position = Some(Position {
                index: u64::from(time.unwrap_or(1)),
                ordinal: 2,
            });
            History::new([invoke, remark, fail], FailMeaning::Observation).unwrap()
        })
}

fn round_trip(format: Format, history: &History) {
    let mut text = Vec::new();
    format.write(history, &mut text).unwrap();
    let again = format.read(&text[..], FailMeaning::Observation).unwrap();
    let events = again
        .events()
        .iter()
        .cloned()
        .map(|event| Event { line: 0, ..event });
    assert_eq!(
        events.collect::<Vec<_>>(),
        history.events(),
        "{}",
        String::from_utf8_lossy(&text)
    );
}

proptest! {
    #[test]
    fn edn_reads_what_it_wrote(history in any_history(true)) {
        round_trip(Format::Edn, &history);
    }

    #[test]
    fn json_lines_read_what_they_wrote(history in any_history(false)) {
        round_trip(Format::JsonLines, &history);
    }

    #[test]
    fn no_text_makes_a_reader_panic(text in "\\PC*|([\\[\\](){}:;#,\"\\\\ \n0-9a-z]|INFO  jepsen.util - 0 )*") {
        for format in Format::ALL {
            let _ = format.read(text.as_bytes(), FailMeaning::DidNotHappen);
        }
    }
}
