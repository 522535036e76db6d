//! Text of answers as clients see it: reasoning and calls of tools split out, wherever the pieces
//! in which it comes begin and end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;

use moeflux_server::answer::tools::{Tool, ToolFormat, Tools};
use moeflux_server::answer::{Delta, OutputParser};
use serde_json::{Value, json};

/// An answer, put together from its pieces.
#[derive(Debug, Default, PartialEq)]
struct Answer {
    reasoning: String,
    text: String,
    calls: Vec<(String, String)>,
}

impl Answer {
    fn add(&mut self, deltas: Vec<Delta>) {
        for delta in deltas {
            match delta {
                Delta::Text(text) => self.text += &text,
                Delta::Reasoning(text) => self.reasoning += &text,
                Delta::ToolStart { index, name } => {
                    assert_eq!(index, self.calls.len(), "calls come in their order");
                    self.calls.push((name, String::new()));
                }
                Delta::ToolArguments { index, json } => {
                    assert_eq!(index + 1, self.calls.len(), "of the call that is open");
                    self.calls[index].1 += &json;
                }
            }
        }
    }

    fn calls(&self) -> Vec<(&str, Value)> {
        let call = |(name, json): &'_ (String, String)| {
            let value = serde_json::from_str(json);
            (name.clone(), value.unwrap_or_else(|_| json.as_str().into()))
        };
        let parsed = self.calls.iter().map(call).zip(&self.calls);
        parsed
            .map(|((_, value), (name, _))| (name.as_str(), value))
            .collect()
    }
}

fn tools() -> Tools {
    Arc::new(vec![Tool {
        name: "search".into(),
        description: None,
        parameters: json!({"type": "object", "properties": {
            "text": {"type": "string"}, "count": {"type": "integer"}, "exact": {"type": "boolean"},
            "where": {"type": "object"}, "mixed": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        }}),
        strict: false,
    }])
}

struct Model {
    reasons: bool,
    reasoning: bool,
    format: Option<ToolFormat>,
}

const PLAIN: Model = Model {
    reasons: false,
    reasoning: false,
    format: None,
};

impl Model {
    fn parser(&self) -> OutputParser {
        let tools = self.format.map(|format| (format, tools()));
        OutputParser::new(self.reasons, self.reasoning, tools)
    }

    /// The answer, the same in one piece, in two cut at any place, and in single characters.
    #[track_caller]
    fn read(&self, text: &str) -> Answer {
        let read = |pieces: &[&str]| {
            let (mut parser, mut answer) = (self.parser(), Answer::default());
            for piece in pieces {
                answer.add(parser.push(piece));
            }
            answer.add(parser.finish());
            answer
        };
        let whole = read(&[text]);
        let cuts = (0..=text.len()).filter(|at| text.is_char_boundary(*at));
        for at in cuts {
            let (first, second) = text.split_at(at);
            assert_eq!(read(&[first, second]), whole, "cut at {at}");
        }
        let characters: Vec<&str> = text.split("").filter(|c| !c.is_empty()).collect();
        assert_eq!(read(&characters), whole, "in single characters");
        whole
    }
}

#[test]
fn reasoning_is_split_out() {
    let may = Model {
        reasons: true,
        ..PLAIN
    };
    let has_begun = Model {
        reasoning: true,
        ..may
    };
    let answer = may.read("<think>\nSix times seven – é.\n</think>\n\nIt is **42**.");
    assert_eq!(answer.reasoning.trim(), "Six times seven – é.");
    assert_eq!(answer.text, "It is **42**.");
    let answer = has_begun.read("Six times seven.\n</think>\n\nIt is 42.");
    assert_eq!(
        (answer.reasoning.trim(), answer.text.as_str()),
        ("Six times seven.", "It is 42.")
    );
    // Cut off, it is all reasoning; without the tag, or later in the text, it is none.
    assert_eq!(has_begun.read("Six times").reasoning, "Six times");
    assert_eq!(may.read("It is 42.").text, "It is 42.");
    let later = "Write <think> before </think>.";
    assert_eq!(may.read(later).text, later);
    assert_eq!(PLAIN.read("<think>a</think>b").text, "<think>a</think>b");
}

#[test]
fn calls_in_json_are_read() {
    let model = Model {
        format: Some(ToolFormat::Json),
        ..PLAIN
    };
    let first = r#"{"name": "search", "arguments": {"text": "a } \" b", "count": 3}}"#;
    let second = r#"{"arguments": {"where": {"x": [1, {"y": 2}]}}, "name": "search"}"#;
    let text = format!(
        "Let me look.\n<tool_call>\n{first}\n</tool_call>\n<tool_call>\n{second}\n</tool_call>"
    );
    let answer = model.read(&text);
    assert_eq!(answer.text, "Let me look.");
    let expected = [
        ("search", json!({"text": "a } \" b", "count": 3})),
        ("search", json!({"where": {"x": [1, {"y": 2}]}})),
    ];
    assert_eq!(answer.calls(), expected);
    // What is no call is text, and a call that is cut off is given as far as it came.
    let nonsense = "<tool_call>\nnonsense\n</tool_call> and more";
    assert_eq!(model.read(nonsense).text, nonsense);
    let cut = model.read(r#"<tool_call>{"name": "search", "arguments": {"te"#);
    assert_eq!(cut.calls, [("search".to_owned(), "{\"te".to_owned())]);
}

#[test]
fn calls_in_xml_are_read() {
    let model = Model {
        format: Some(ToolFormat::Xml),
        reasons: true,
        reasoning: true,
    };
    let text = "I search.\n</think>\n\n<tool_call>\n<function=search>\n<parameter=text>\n3\nlines <b> \
                {\"x\": 1}\n</parameter>\n<parameter=count>\n3\n</parameter>\n<parameter=exact>\ntrue\
                \n</parameter>\n<parameter=where>\n{\"x\": [1]}\n</parameter>\n<parameter=mixed>\n\
                null\n</parameter>\n<parameter=unknown>\n7\n</parameter>\n</function>\n</tool_call>\n\
                <tool_call>\n<function=search>\n</function>\n</tool_call>";
    let answer = model.read(text);
    assert_eq!(
        (answer.reasoning.trim(), answer.text.as_str()),
        ("I search.", "")
    );
    let arguments = json!({
        "text": "3\nlines <b> {\"x\": 1}", "count": 3, "exact": true, "where": {"x": [1]},
        "mixed": null, "unknown": "7",
    });
    assert_eq!(
        answer.calls(),
        [("search", arguments), ("search", json!({}))]
    );
    let nonsense = "</think><tool_call>\nno function\n</tool_call>";
    assert_eq!(
        model.read(nonsense).text,
        "<tool_call>\nno function\n</tool_call>"
    );
    let cut = "</think><tool_call>\n<function=search>\n<parameter=count>\n3\n</parameter>\n<param";
    assert_eq!(
        model.read(cut).calls,
        [("search".to_owned(), "{\"count\":3".to_owned())]
    );
}
