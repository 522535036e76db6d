//! What clients of the three protocols get for right requests; `refusals.rs` has the wrong ones.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/http.rs"]
mod http;

use std::path::Path;

use axum::Router;
use http::{
    CHAT, MESSAGES, QUESTION, RESPONSES, messages, options, post, routes, routes_with, with,
};
use moeflux::text::ChatTemplate;
use serde_json::{Map, Value, json};

const ANSWER: &str = "Wednesday comes after Tuesday.";

/// A template of models that write calls as XML and may be told to reason.
const XML: &str = "\
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}{{- '<tool_call>\\n<function=' + call.function.name + '>\\n' }}
{%- for name, value in call.function.arguments.items() %}{{- '<parameter=' + name + '>\\n' + value + \
'\\n</parameter>\\n' }}{%- endfor %}{{- '</function>\\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\\n' }}
{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking %}{{- '<think>\\n' }}{%- endif %}{%- endif %}";

fn xml_routes() -> Router {
    let template = ChatTemplate::from_source(Path::new("template"), XML, Map::new()).unwrap();
    routes_with(options(), Some(template))
}

async fn ok(routes: &Router, path: &str, body: &Value) -> Value {
    let reply = post(routes, path, body).await;
    assert_eq!(reply.status, 200, "{path} {body}: {}", reply.text());
    reply.json()
}

#[tokio::test]
async fn responses_are_given_whole_and_in_events() {
    let routes = routes(options());
    let ask = json!({
        "model": "demo", "input": QUESTION, "temperature": 0, "metadata": {"a": "b"},
        "max_output_tokens": 50, "instructions": null,
    });
    let reply = ok(&routes, RESPONSES, &ask).await;
    assert_eq!(reply["status"], "completed");
    let item = &reply["output"][0];
    assert_eq!(
        (&item["type"], &item["role"]),
        (&json!("message"), &json!("assistant"))
    );
    assert_eq!(item["content"][0]["text"], ANSWER);
    let usage = &reply["usage"];
    let sum = usage["input_tokens"].as_u64().unwrap() + usage["output_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], sum);
    assert_eq!(
        (&reply["metadata"]["a"], &reply["temperature"]),
        (&json!("b"), &json!(0))
    );

    let streamed = post(&routes, RESPONSES, &with(&ask, json!({"stream": true}))).await;
    let events = streamed.events();
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..2], ["response.created", "response.in_progress"]);
    assert_eq!(
        kinds[2..4],
        ["response.output_item.added", "response.content_part.added"]
    );
    assert_eq!(kinds.last(), Some(&"response.completed"));
    let numbers: Vec<u64> = events
        .iter()
        .map(|e| e["sequence_number"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
    let text: String = events.iter().filter_map(|e| e["delta"].as_str()).collect();
    assert_eq!(text, ANSWER);
    let last = &events.last().unwrap()["response"];
    assert_eq!(last["output"][0]["content"], item["content"]);
    assert_eq!(&last["usage"], usage);

    // An answer that is cut says so, and what was said goes back as it came.
    let cut = ok(
        &routes,
        RESPONSES,
        &with(&ask, json!({"max_output_tokens": 2})),
    )
    .await;
    assert_eq!(cut["status"], "incomplete");
    assert_eq!(cut["incomplete_details"]["reason"], "max_output_tokens");
    let mut input = vec![json!({"role": "user", "content": QUESTION})];
    input.extend(reply["output"].as_array().unwrap().clone());
    input.push(json!({"role": "user", "content": "And after Wednesday?"}));
    ok(&routes, RESPONSES, &with(&ask, json!({"input": input}))).await;
}

#[tokio::test]
async fn responses_call_tools() {
    let routes = routes(options());
    let tool = json!({
        "type": "function", "name": "get_weather",
        "description": "Get the current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}},
                       "required": ["city"]},
    });
    let ask = json!({"input": "Is it raining in Paris?", "tools": [tool], "temperature": 0});
    let reply = ok(&routes, RESPONSES, &ask).await;
    let call = &reply["output"][0];
    assert_eq!(
        (&call["type"], &call["name"]),
        (&json!("function_call"), &json!("get_weather"))
    );
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"city": "Paris"}));
    assert_eq!(
        reply["tools"],
        json!([tool]),
        "what was offered is given back"
    );
    let output = json!({"type": "function_call_output", "call_id": call["call_id"],
                        "output": "It is sunny."});
    let input = json!([{"role": "user", "content": "Is it raining in Paris?"}, call, output]);
    ok(
        &routes,
        RESPONSES,
        &with(&ask, json!({"input": input, "max_output_tokens": 20})),
    )
    .await;
    let events = post(&routes, RESPONSES, &with(&ask, json!({"stream": true})))
        .await
        .events();
    let done = events
        .iter()
        .find(|e| e["type"] == "response.function_call_arguments.done");
    assert_eq!(done.unwrap()["arguments"], call["arguments"]);
}

#[tokio::test]
async fn xml_calls_reach_every_protocol() {
    let routes = xml_routes();
    let schema = json!({"type": "object", "properties": {}});
    let function = json!({"name": "get_time", "parameters": schema});
    let forced = json!({"type": "function", "function": {"name": "get_time"}});
    let ask = json!({
        "messages": messages(), "tools": [{"type": "function", "function": function}],
        "tool_choice": forced, "parallel_tool_calls": false, "max_tokens": 40,
    });
    let choice = ok(&routes, CHAT, &ask).await["choices"][0].clone();
    assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(
        call["function"],
        json!({"name": "get_time", "arguments": "{}"})
    );
    let talk = json!([messages()[0], choice["message"],
                      {"role": "tool", "tool_call_id": call["id"], "content": "noon"}]);
    ok(
        &routes,
        CHAT,
        &with(&ask, json!({"messages": talk, "tool_choice": "none"})),
    )
    .await;

    let tool = json!({"name": "get_time", "input_schema": schema});
    let choice = json!({"type": "any", "disable_parallel_tool_use": true});
    let ask = json!({"messages": messages(), "tools": [tool], "tool_choice": choice,
                     "max_tokens": 40});
    let message = ok(&routes, MESSAGES, &ask).await;
    assert_eq!(message["stop_reason"], "tool_use", "{message}");
    let block = &message["content"][0];
    assert_eq!(
        (&block["name"], &block["input"]),
        (&json!("get_time"), &json!({}))
    );

    let tool = json!({"type": "function", "name": "get_time", "parameters": schema});
    let ask = json!({"input": QUESTION, "tools": [tool], "tool_choice": "required",
                     "parallel_tool_calls": false, "max_output_tokens": 40});
    let item = ok(&routes, RESPONSES, &ask).await["output"][0].clone();
    assert_eq!(
        (&item["name"], &item["arguments"]),
        (&json!("get_time"), &json!("{}"))
    );
}

#[tokio::test]
async fn reasoning_has_its_own_place() {
    let routes = xml_routes();
    let chat = json!({"messages": messages(), "max_tokens": 5, "reasoning_effort": "low"});
    let message = ok(&routes, CHAT, &chat).await["choices"][0]["message"].clone();
    let thought = message["reasoning_content"].as_str().unwrap().to_owned();
    assert!(!thought.is_empty() && message["content"] == "", "{message}");
    let usage = ok(&routes, CHAT, &chat).await["usage"].clone();
    assert_eq!(
        usage["completion_tokens_details"]["reasoning_tokens"], 5,
        "{usage}"
    );
    let events = post(&routes, CHAT, &with(&chat, json!({"stream": true})))
        .await
        .events();
    let pieces = events
        .iter()
        .map(|e| &e["choices"][0]["delta"]["reasoning_content"]);
    let pieces: String = pieces.filter_map(Value::as_str).collect();
    // Both are drawn with temperature 1 unless something is said, so only their kind is the same.
    assert!(!pieces.is_empty());
    let without = ok(
        &routes,
        CHAT,
        &with(&chat, json!({"reasoning_effort": "none"})),
    )
    .await;
    assert_eq!(
        without["choices"][0]["message"].get("reasoning_content"),
        None
    );

    let ask = json!({"messages": messages(), "max_tokens": 5, "thinking": {"type": "enabled"}});
    let block = ok(&routes, MESSAGES, &ask).await["content"][0].clone();
    assert_eq!(block["type"], "thinking", "{block}");
    assert!(!block["thinking"].as_str().unwrap().is_empty());
    let ask = json!({"input": QUESTION, "max_output_tokens": 5, "reasoning": {"effort": "high"}});
    let reply = ok(&routes, RESPONSES, &ask).await;
    assert_eq!(reply["output"][0]["type"], "reasoning", "{reply}");
}

#[tokio::test]
async fn a_model_without_template_completes_text_only() {
    let routes = routes_with(options(), None);
    let reply = post(&routes, CHAT, &json!({"messages": messages()})).await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["error"]["code"], "no_chat_template");
    ok(
        &routes,
        "/v1/completions",
        &json!({"prompt": "Once", "max_tokens": 2}),
    )
    .await;
}
