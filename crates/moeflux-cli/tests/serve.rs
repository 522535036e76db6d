//! `serve`: OpenAI's and Anthropic's paths, answered by the demo model.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/server.rs"]
mod server;

use common::{ANSWER, QUESTION};
use serde_json::{Value, json};
use server::{CHAT, Server, question, with};

fn weather() -> Value {
    json!({"type": "function", "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}},
                       "required": ["city"]},
    }})
}

/// The text of a streamed chat completion.
fn streamed_text(events: &[Value]) -> String {
    let text = |event: &Value| {
        event["choices"][0]["delta"]["content"]
            .as_str()
            .map(str::to_owned)
    };
    events.iter().filter_map(text).collect()
}

#[test]
fn a_question_is_answered_whole_and_in_pieces() {
    let server = Server::start(&[]);
    let reply = server.ask(CHAT, &question(QUESTION));
    let choice = &reply["choices"][0];
    assert_eq!(choice["message"]["content"], ANSWER);
    assert_eq!(choice["finish_reason"], "stop");
    let usage = &reply["usage"];
    let (prompt, answer) = (&usage["prompt_tokens"], &usage["completion_tokens"]);
    assert!(
        prompt.as_u64().unwrap() > 5 && answer.as_u64().unwrap() > 3,
        "{usage}"
    );

    let more = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = server.stream(CHAT, &with(question(QUESTION), more));
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(streamed_text(&events), ANSWER);
    let last = events.last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), usage));
    let end = &events[events.len() - 2]["choices"][0];
    assert_eq!(end["finish_reason"], "stop");
}

#[test]
fn sampling_parameters_do_what_they_say() {
    let server = Server::start(&[]);
    let story = question("Tell me a story about a fox.");
    let text = |more: Value| {
        let reply = server.ask(CHAT, &with(story.clone(), more));
        let choice = reply["choices"][0].clone();
        (
            choice["message"]["content"].as_str().unwrap().to_owned(),
            choice,
        )
    };
    let (long, _) = text(json!({"max_tokens": 30}));
    let (short, choice) = text(json!({"max_completion_tokens": 5}));
    assert!(long.starts_with(&short) && short.len() < long.len());
    assert_eq!(choice["finish_reason"], "length");
    let (stopped, choice) = text(json!({"stop": ["fox"], "max_tokens": 30}));
    assert_eq!(stopped, long.split("fox").next().unwrap());
    assert_eq!(choice["finish_reason"], "stop");

    let drawn = |seed: u64| text(json!({"temperature": 1.5, "seed": seed, "max_tokens": 20})).0;
    assert_eq!(drawn(3), drawn(3));
    assert!((4..10).any(|seed| drawn(seed) != drawn(3)));

    let several = with(
        story.clone(),
        json!({"n": 3, "temperature": 1.5, "seed": 3, "max_tokens": 20}),
    );
    let reply = server.ask(CHAT, &several);
    assert_eq!(reply["choices"].as_array().unwrap().len(), 3);
    assert_eq!(reply["choices"][0]["message"]["content"], drawn(3));
    assert_eq!(reply["choices"][2]["message"]["content"], drawn(5));

    let tokens = server.ask("/tokenize", &json!({"content": " fox"}));
    let fox = tokens["tokens"][0].to_string();
    let (without, _) = text(json!({"logit_bias": {fox: -100}, "max_tokens": 30}));
    assert!(
        long.contains(" fox") && !without.contains(" fox"),
        "{without}"
    );
}

#[test]
fn log_probabilities_are_of_the_tokens_given() {
    let server = Server::start(&[]);
    let more = json!({"logprobs": true, "top_logprobs": 3});
    let reply = server.ask(CHAT, &with(question(QUESTION), more.clone()));
    let list = reply["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    let text: String = list.iter().map(|t| t["token"].as_str().unwrap()).collect();
    assert_eq!(text, ANSWER);
    for token in list {
        let own = token["logprob"].as_f64().unwrap();
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!(
            (&top[0]["token"], top[0]["logprob"].as_f64()),
            (&token["token"], Some(own))
        );
        let sum: f64 = top
            .iter()
            .map(|t| t["logprob"].as_f64().unwrap().exp())
            .sum();
        assert!(own <= 0.0 && sum <= 1.0 + 1e-5, "{token}");
    }
    let events = server.stream(
        CHAT,
        &with(with(question(QUESTION), more), json!({"stream": true})),
    );
    let pieces = events
        .iter()
        .filter_map(|e| e["choices"][0]["logprobs"]["content"].as_array());
    assert_eq!(
        pieces.flatten().collect::<Vec<_>>(),
        list.iter().collect::<Vec<_>>()
    );
}

#[test]
fn tools_are_called() {
    let server = Server::start(&[]);
    let ask = with(
        question("Is it raining in Paris?"),
        json!({"tools": [weather()]}),
    );
    let reply = server.ask(CHAT, &ask);
    let choice = &reply["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{reply}");
    assert_eq!(choice["message"]["content"], Value::Null);
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "get_weather");
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"city": "Paris"}));

    let events = server.stream(CHAT, &with(ask.clone(), json!({"stream": true})));
    let calls = events
        .iter()
        .map(|e| &e["choices"][0]["delta"]["tool_calls"][0]);
    let calls: Vec<&Value> = calls.filter(|call| !call.is_null()).collect();
    assert_eq!(calls[0]["function"]["name"], "get_weather");
    let pieces = calls
        .iter()
        .map(|c| c["function"]["arguments"].as_str().unwrap());
    assert!(calls.len() > 2, "the arguments come in pieces");
    assert_eq!(
        serde_json::from_str::<Value>(&pieces.collect::<String>()).unwrap(),
        arguments
    );

    // The answer to the call, as clients send it back.
    let mut talk = ask.clone();
    let messages = talk["messages"].as_array_mut().unwrap();
    messages.push(choice["message"].clone());
    messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": "It is sunny."}));
    assert_eq!(server.post(CHAT, &talk).0, 200);

    // A call can be forced, and forbidden.
    let force = json!({"type": "function", "function": {"name": "get_weather"}});
    let forced = server.ask(
        CHAT,
        &with(
            question(QUESTION),
            json!({"tools": [weather()], "tool_choice": force, "max_tokens": 60}),
        ),
    );
    let calls = &forced["choices"][0]["message"]["tool_calls"];
    assert_eq!(calls[0]["function"]["name"], "get_weather", "{forced}");
    let none = server.ask(
        CHAT,
        &with(ask, json!({"tool_choice": "none", "max_tokens": 20})),
    );
    assert_eq!(none["choices"][0]["message"]["tool_calls"], Value::Null);
}

#[test]
fn answers_follow_a_schema() {
    let server = Server::start(&[]);
    let schema = json!({
        "type": "object",
        "properties": {"day": {"enum": ["Monday", "Wednesday"]}, "n": {"type": "integer", "maximum": 9, "minimum": 0}},
        "required": ["day", "n"],
        "additionalProperties": false,
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    let ask = with(
        question(QUESTION),
        json!({"response_format": format, "max_tokens": 200}),
    );
    let reply = server.ask(CHAT, &ask);
    let text = reply["choices"][0]["message"]["content"].as_str().unwrap();
    let value: Value = serde_json::from_str(text).unwrap();
    assert!(
        ["Monday", "Wednesday"].contains(&value["day"].as_str().unwrap()),
        "{value}"
    );
    assert!((0..=9).contains(&value["n"].as_i64().unwrap()), "{value}");
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");

    let wrong =
        json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no"}}});
    let (status, error) = server.post(
        CHAT,
        &with(question("hi"), json!({"response_format": wrong})),
    );
    assert_eq!(
        (status, &error["error"]["code"]),
        (400, &json!("invalid_schema")),
        "{error}"
    );
}

#[test]
fn text_is_completed() {
    let server = Server::start(&[]);
    let prompt = format!("<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n");
    let ask = json!({"model": "demo", "prompt": prompt, "max_tokens": 50, "logprobs": 2});
    let reply = server.ask("/v1/completions", &ask);
    assert_eq!(reply["choices"][0]["text"], ANSWER);
    let lists = &reply["choices"][0]["logprobs"];
    let count = lists["tokens"].as_array().unwrap().len();
    assert_eq!(lists["token_logprobs"].as_array().unwrap().len(), count);
    assert_eq!(lists["text_offset"][0], 0);
    let tokens = server.ask("/tokenize", &json!({"content": prompt}))["tokens"].clone();
    let events = server.stream(
        "/v1/completions",
        &json!({"prompt": tokens, "max_tokens": 50, "stream": true, "echo": true}),
    );
    let text: String = events
        .iter()
        .map(|e| e["choices"][0]["text"].as_str().unwrap())
        .collect();
    assert_eq!(text, format!("{prompt}{ANSWER}"));
    let back = server.ask("/detokenize", &json!({"tokens": tokens}));
    assert_eq!(back["content"], prompt);
    // So long a text is encoded behind other connections' backs.
    let long = "The fox is red. ".repeat(5000);
    let tokens = server.ask("/tokenize", &json!({"content": long}))["tokens"].clone();
    let back = server.ask("/detokenize", &json!({"tokens": tokens}));
    assert_eq!(back["content"], long);
    let ask = json!({"prompt": "a", "ignore_eos": true});
    let usage = server.ask("/v1/completions", &ask)["usage"].clone();
    assert_eq!(usage["completion_tokens"], 16);
}

#[test]
fn several_prompts_are_completed_as_each_alone() {
    let server = Server::start(&["--queue", "3"]);
    let prompts = ["The capital of France", "One, two, three,", "A fox"];
    let more = json!({"n": 2, "temperature": 0.9, "seed": 4, "max_tokens": 12, "echo": true});
    let ask = |prompt: Value| with(json!({"prompt": prompt}), more.clone());
    let all = server.ask("/v1/completions", &ask(json!(prompts)));
    let choices = all["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 6);
    let mut used = [0, 0];
    for (number, prompt) in prompts.iter().enumerate() {
        let tokens = server.ask("/tokenize", &json!({"content": prompt}))["tokens"].clone();
        let alone = server.ask("/v1/completions", &ask(json!([tokens])));
        for choice in 0..2 {
            let (one, other) = (&alone["choices"][choice], &choices[2 * number + choice]);
            assert_eq!(one["text"], other["text"]);
            assert!(one["text"].as_str().unwrap().starts_with(prompt), "{one}");
            assert_eq!(other["index"], 2 * number + choice);
        }
        for (sum, what) in used.iter_mut().zip(["prompt_tokens", "completion_tokens"]) {
            *sum += alone["usage"][what].as_u64().unwrap();
        }
    }
    assert_eq!(all["usage"]["prompt_tokens"], used[0]);
    assert_eq!(all["usage"]["completion_tokens"], used[1]);

    let mut texts = vec![String::new(); 6];
    let streamed = with(ask(json!(prompts)), json!({"stream": true}));
    for event in server.stream("/v1/completions", &streamed) {
        let choice = &event["choices"][0];
        let text = &mut texts[choice["index"].as_u64().unwrap() as usize];
        text.push_str(choice["text"].as_str().unwrap());
    }
    assert!(
        texts.iter().zip(choices).all(|(t, c)| c["text"] == *t),
        "{texts:?}"
    );

    for (wrong, problem) in [
        (
            json!(["a", "b", "c", "d"]),
            "holds 4 prompts, but 3 may wait",
        ),
        (json!(["a", 5]), "text or a list of tokens"),
        (json!(["a", [999999]]), "holds what is not a token"),
    ] {
        let (status, error) = server.post("/v1/completions", &json!({"prompt": wrong}));
        assert_eq!(
            (status, &error["error"]["param"]),
            (400, &json!("prompt")),
            "{error}"
        );
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(problem), "{message}");
    }
}

#[test]
fn messages_speak_anthropic() {
    let server = Server::start(&[]);
    let ask = with(
        question(QUESTION),
        json!({"max_tokens": 100, "system": [{"type": "text", "text": "Be brief."}]}),
    );
    let plain = with(question(QUESTION), json!({"max_tokens": 100}));
    let reply = server.ask("/v1/messages", &plain);
    assert_eq!(reply["content"], json!([{"type": "text", "text": ANSWER}]));
    assert_eq!(
        (&reply["stop_reason"], &reply["role"]),
        (&json!("end_turn"), &json!("assistant"))
    );
    let count = server.ask("/v1/messages/count_tokens", &question(QUESTION));
    assert_eq!(count["input_tokens"], reply["usage"]["input_tokens"]);
    let more = server.ask("/v1/messages", &ask);
    assert!(more["usage"]["input_tokens"].as_u64() > reply["usage"]["input_tokens"].as_u64());

    let tool = json!({"name": "get_weather", "description": "Get the current weather in a city.",
                      "input_schema": weather()["function"]["parameters"]});
    let ask = with(
        question("Is it raining in Paris?"),
        json!({"max_tokens": 100, "tools": [tool], "stream": true}),
    );
    let events = server.stream("/v1/messages", &ask);
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(
        (kinds[0], kinds[1]),
        ("message_start", "content_block_start")
    );
    assert_eq!(
        kinds[kinds.len() - 3..],
        ["content_block_stop", "message_delta", "message_stop"]
    );
    assert_eq!(events[1]["content_block"]["name"], "get_weather");
    let pieces = events
        .iter()
        .filter_map(|e| e["delta"]["partial_json"].as_str());
    let input: Value = serde_json::from_str(&pieces.collect::<String>()).unwrap();
    assert_eq!(input, json!({"city": "Paris"}));
    assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], "tool_use");

    let (status, error) = server.post("/v1/messages", &question(QUESTION));
    assert_eq!((status, &error["type"]), (400, &json!("error")));
    assert_eq!(error["error"]["type"], "invalid_request_error");
}
