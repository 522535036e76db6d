//! Chat templates render byte for byte what transformers rendered.
//!
//! The golden files are made by `tools/goldens/templates/make_templates.py`. Templates that raise there
//! must fail here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use moeflux::text::{ChatTemplate, Message, RenderOptions, TextError};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates")
}

fn render(template: &ChatTemplate, inputs: &Value) -> Result<String, TextError> {
    let messages: Vec<Message> = serde_json::from_value(inputs["messages"].clone()).unwrap();
    let options = RenderOptions {
        tools: serde_json::from_value(inputs["tools"].clone()).unwrap(),
        add_generation_prompt: inputs["add_generation_prompt"].as_bool().unwrap(),
        variables: serde_json::from_value(inputs["variables"].clone()).unwrap(),
    };
    template.render(&messages, &options)
}

/// Says which lines differ, so that a failure of the feature list names the feature.
fn differing_lines(found: &str, expected: &str) -> String {
    let pairs = found.lines().zip(expected.lines()).filter(|(a, b)| a != b);
    pairs
        .map(|(a, b)| format!("  found    {a:?}\n  expected {b:?}\n"))
        .collect()
}

#[test]
fn renderings_equal_transformers() {
    let mut rendered = 0;
    let mut wrong = String::new();
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        let golden: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let source = golden["template"].as_str().unwrap();
        let template = ChatTemplate::from_source(&path, source, Map::new()).unwrap();
        for (name, case) in golden["cases"].as_object().unwrap() {
            let result = render(&template, &case["inputs"]);
            let what = format!("{} / {name}", path.display());
            match (case.get("expected").and_then(Value::as_str), result) {
                (Some(expected), Ok(found)) if expected == found => rendered += 1,
                (Some(expected), Ok(found)) => {
                    wrong += &format!("{what}:\n{}", differing_lines(&found, expected));
                }
                (None, Err(TextError::TemplateRender { line, .. })) if line > 0 => rendered += 1,
                (_, result) => wrong += &format!("{what}: {result:?}\n"),
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(rendered >= 46, "only {rendered} golden renderings found");
}

fn compile(source: &str) -> Result<ChatTemplate, TextError> {
    ChatTemplate::from_source(Path::new("some/chat_template.jinja"), source, Map::new())
}

#[test]
fn a_message_without_content_is_not_called_none() {
    let call = json!({"function": {"name": "f", "arguments": {"x": null}}});
    let messages = json!([
        {"role": "user", "content": "None?"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
    ]);
    let messages: Vec<Message> = serde_json::from_value(messages).unwrap();
    let render = |source: &str| {
        let template = compile(source).unwrap();
        template
            .render(&messages, &RenderOptions::default())
            .unwrap()
    };
    let arguments = "{% for c in m.tool_calls %}{{ c.function.arguments }}{% endfor %}";
    let plain = "{% for m in messages %}[{{ m.content }}".to_owned() + arguments + "]{% endfor %}";
    assert_eq!(render(&plain), "[None?][{'x': None}]");
    let asks = "{% for m in messages %}{% if m.content is none %}".to_owned()
        + arguments
        + "{% else %}{{ m.content }}{% endif %}{% endfor %}";
    assert_eq!(render(&asks), "None?{'x': None}");
}

#[test]
fn errors_name_file_line_and_reason() {
    let error = compile("a\n{% if %}").unwrap_err();
    assert!(
        matches!(error, TextError::TemplateSyntax { line: 2, .. }),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("some/chat_template.jinja, line 2"),
        "{error}"
    );

    let template = compile("a\nb\n{{ raise_exception('roles must alternate') }}").unwrap();
    let error = template.render(&[], &RenderOptions::default()).unwrap_err();
    assert!(
        matches!(error, TextError::TemplateRender { line: 3, .. }),
        "{error}"
    );
    assert!(
        error.to_string().contains("roles must alternate"),
        "{error}"
    );
}

#[test]
fn hostile_templates_fail_and_do_not_hang_or_crash() {
    for source in [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'a'.ljust(99999999999) }}",
        "{{ [1] | tojson(indent=99999999) }}",
        "{{ 'a'.rsplit('') }}",
        "{{ 'a'.partition('') }}",
        "{{ nothing | tojson }}",
        "{{ nothing.at.all }}",
        "{{ [1] | tojson(nonsense=1) }}",
        "{{ '%s %s' % 'one' }}",
        "{{ strftime_now('%Q') }}",
    ] {
        let error = compile(source)
            .unwrap()
            .render(&[], &RenderOptions::default());
        assert!(error.is_err(), "{source} gave {error:?}");
    }
}

/// Pieces that templates are made of, whole and broken.
fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "-",
        "'",
        "\"",
        "\\",
        "%",
        "(",
        ")",
        "[",
        "]",
        "|",
        ".",
        " ",
        "\n",
        "raw",
        "endraw",
        "generation",
        "endgeneration",
        "if",
        "endif",
        "for",
        "in",
        "endfor",
        "set",
        "messages",
        "'%s' % ",
        "tojson",
        "x",
        "1",
        "::-1",
        "ü",
        "🎈",
        "~",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "\\PC{0,3}"]
}

proptest! {
    #[test]
    fn any_template_renders_or_fails(pieces in prop::collection::vec(piece(), 0..40)) {
        let options = RenderOptions::default();
        let message = Message::new("user", "Größe");
        if let Ok(template) = compile(&pieces.concat()) {
            // Either outcome is right; a panic or a hang is not.
            let _ = template.render(&[message], &options);
        }
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    let deep = |open: &str, close: &str| {
        format!(
            "\n{{{{ {}1{} }}}}",
            open.repeat(20_000),
            close.repeat(20_000)
        )
    };
    let elif = format!(
        "\n{{% if 1 %}}{}{{% endif %}}",
        "{% elif 1 %}".repeat(20_000)
    );
    let blocks = format!(
        "\n{}{}",
        "{% if 1 %}".repeat(20_000),
        "{% endif %}".repeat(20_000)
    );
    for source in [
        deep("(", ")"),
        deep("[", "]"),
        deep("'%s' % (", ")"),
        deep("-", ""),
        deep("1~", ""),
        deep("", "|e"),
        elif,
        blocks,
    ] {
        let error = compile(&source).unwrap_err();
        assert!(
            matches!(error, TextError::TemplateSyntax { line: 2, .. }),
            "{error}"
        );
    }
    // What is just allowed does not overflow a thread's stack.
    for source in [
        "-".repeat(4000),
        "1~".repeat(2000),
        "1 if 0 else ".repeat(330),
    ] {
        let template = compile(&format!("{{{{ {source}1 }}}}")).unwrap();
        assert!(template.render(&[], &RenderOptions::default()).is_ok());
    }
    // A long text within a tag is no nesting.
    let long = format!("{{{{ '{}' }}}}", "x".repeat(100_000));
    let rendered = compile(&long)
        .unwrap()
        .render(&[], &RenderOptions::default())
        .unwrap();
    assert_eq!(rendered.len(), 100_000);
}

#[test]
fn templates_are_found_where_checkpoints_keep_them() {
    let dir = tempfile::tempdir().unwrap();
    let options = RenderOptions::default();
    assert!(matches!(
        ChatTemplate::open(dir.path()),
        Err(TextError::NoTemplate { .. })
    ));

    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let config = json!({
        "chat_template": "one {{ bos_token }}{{ eos_token }}{{ pad_token }}",
        "bos_token": {"content": "<s>", "special": true},
        "eos_token": "</s>",
        "pad_token": null,
    });
    write("tokenizer_config.json", &config.to_string());
    let render = |options: &RenderOptions| {
        ChatTemplate::open(dir.path())
            .unwrap()
            .render(&[], options)
            .unwrap()
    };
    assert_eq!(render(&options), "one <s></s>");

    let config = json!({"chat_template": [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "with {{ tools | length }}"},
    ]});
    write("tokenizer_config.json", &config.to_string());
    let with_tools = RenderOptions {
        tools: Some(vec![json!({})]),
        ..RenderOptions::default()
    };
    assert_eq!(render(&options), "plain");
    assert_eq!(render(&with_tools), "with 1");

    write("chat_template.jinja", "file\n");
    assert_eq!(render(&options), "file");

    write(
        "tokenizer_config.json",
        "{\"chat_template\": [{\"name\": \"x\"}]}",
    );
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    let error = ChatTemplate::open(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("tokenizer_config.json") && error.contains("chat_template"),
        "{error}"
    );
    write("tokenizer_config.json", "{");
    let error = ChatTemplate::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer_config.json"), "{error}");
}
