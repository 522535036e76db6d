"""Synthetic chat corpus for the demo model: every fact, name and sentence is generated here.

Six skills, each with an answer that can be checked: stories, capitals and other facts, arithmetic,
counting and spelling, recall from the conversation, and tool calls. `sample(rng)` returns one
conversation; `evaluation(seed)` returns single-answer prompts with their answers.

The random numbers are drawn in a fixed order: a `random.Random` of one seed always gives the same
conversations. Changing the order or the length of a list changes the corpus.
"""

import json
import random
from dataclasses import dataclass

from vocabulary import (
    ANIMALS,
    CAPITALS,
    COLORS,
    DAYS,
    MONTHS,
    MOODS,
    NAMES,
    NUMBER_WORDS,
    OPPOSITES,
    PLACES,
    SOUNDS,
    SYSTEM_MESSAGES,
    THINGS,
    TOOLS,
    WEATHER,
)


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def tool_specs(names):
    """The tools `names` as a chat template expects them: JSON schema functions."""
    return [tool_spec(name) for name in names]


def tool_spec(name):
    description, parameters = TOOLS[name]
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {key: {"type": kind} for key, kind in parameters.items()},
                "required": list(parameters),
            },
        },
    }


def story(rng, who=None, animal=None, place=None):
    """A story of seven sentences; what is not given is drawn."""
    who = who or rng.choice(NAMES)
    animal = animal or rng.choice(ANIMALS)
    place = place or rng.choice(PLACES)
    friend = rng.choice([name for name in NAMES if name != who])
    friend_animal = rng.choice([other for other in ANIMALS if other != animal])
    thing, gift = rng.sample(THINGS, 2)
    mood, friend_mood = rng.sample(MOODS, 2)
    sky = rng.choice(WEATHER)
    destination = rng.choice([other for other in PLACES if other != place])
    sentences = [
        [
            f"Once upon a time there was a {mood} {animal} named {who}.",
            f"{who} was a {mood} {animal} who lived near the {place}.",
            f"Long ago, in a small house by the {place}, there lived a {mood} {animal} "
            f"called {who}.",
        ],
        [
            f"One {sky} morning, {who} walked to the {place}.",
            f"It was a {sky} day, and {who} wanted to see the {place}.",
            f"On a {sky} afternoon, {who} went to the {place} to play.",
        ],
        [
            f"There {who} found a {thing} under a tree.",
            f"Near the path, {who} saw a {thing}.",
            f"Behind a big stone there was a {thing}.",
        ],
        [
            f"Just then a {friend_animal} named {friend} came by.",
            f"A {friend_mood} {friend_animal} called {friend} was sitting there.",
            f"Soon {who} met {friend}, a {friend_mood} {friend_animal}.",
        ],
        [
            f'"Is this your {thing}?" asked {who}. "Yes, I lost it," said {friend}.',
            f'"Hello," said {friend}. "What a nice {thing}!" "Thank you," said {who}.',
            f'"I am looking for my {thing}," said {friend}. "I have it here," said {who}.',
        ],
        [
            f"{who} gave the {thing} to {friend}, and {friend} gave {who} a {gift}.",
            f"Together they carried the {thing} to the {destination}.",
            f"They shared a {gift} and told stories about the {destination}.",
            f"{friend} showed {who} the way to the {destination}.",
        ],
        [
            f"From that day on, {who} and {friend} were best friends.",
            f"{who} was not {mood} anymore, only happy.",
            f"When the sun went down, {who} went home with a smile.",
            f"That night {who} dreamed of the {destination}.",
        ],
    ]
    return " ".join(rng.choice(ways) for ways in sentences)


def story_request(rng):
    """A request for a story and the story."""
    who, animal, place = rng.choice(NAMES), rng.choice(ANIMALS), rng.choice(PLACES)
    question, wanted = rng.choice(
        [
            ("Tell me a story.", {}),
            (f"Tell me a story about a {animal}.", {"animal": animal}),
            (f"Write a story about a {animal} named {who}.", {"animal": animal, "who": who}),
            (f"Tell me a story about {who} and the {place}.", {"who": who, "place": place}),
        ]
    )
    return question, story(rng, **wanted)


def arithmetic(rng):
    """A sum, difference (never negative) or product, and its value."""
    kind = rng.random()
    largest = 99 if kind < 0.8 else 12
    a, b = rng.randint(0, largest), rng.randint(0, largest)
    if kind < 0.45:
        return f"{a} + {b}", a + b
    if kind < 0.8:
        a, b = max(a, b), min(a, b)
        return f"{a} - {b}", a - b
    return f"{a} * {b}", a * b


def fact(rng):
    """A question with one right answer; one in three is about a capital."""
    kind = rng.randrange(9)
    if kind <= 2:
        country = rng.choice(list(CAPITALS))
        question = rng.choice(
            [
                f"What is the capital of {country}?",
                f"Which city is the capital of {country}?",
                f"Tell me the capital of {country}.",
            ]
        )
        return question, f"The capital of {country} is {CAPITALS[country]}."
    if kind == 3:
        word = rng.choice(list(OPPOSITES))
        question = rng.choice(
            [f"What is the opposite of {word}?", f"Tell me the opposite of {word}."]
        )
        return question, f"The opposite of {word} is {OPPOSITES[word]}."
    if kind == 4:
        animal = rng.choice(list(SOUNDS))
        return f"What does a {animal} say?", f"A {animal} says {SOUNDS[animal]}."
    if kind == 5:
        thing = rng.choice(list(COLORS))
        return f"What color is {thing}?", f"{thing[0].upper() + thing[1:]} is {COLORS[thing]}."
    if kind == 6:
        return next_in(rng, "day", DAYS)
    if kind == 7:
        return next_in(rng, "month", MONTHS)
    number = rng.randrange(21)
    return f"Write {number} as a word.", f"{number} is written {NUMBER_WORDS[number]}."


def next_in(rng, kind, names):
    index = rng.randrange(len(names))
    following = names[(index + 1) % len(names)]
    return f"Which {kind} comes after {names[index]}?", f"{following} comes after {names[index]}."


def count(rng):
    """Counting from one number to another, or spelling a word."""
    if rng.random() < 0.5:
        first = rng.randint(0, 40)
        last = first + rng.randint(2, 15)
        return f"Count from {first} to {last}.", ", ".join(map(str, range(first, last + 1))) + "."
    word = rng.choice(NAMES + ANIMALS + list(CAPITALS)).replace(" ", "").lower()
    return f"Spell the word {word}.", "-".join(word.upper()) + "."


def recall(rng):
    """Codes to remember, the acknowledgement, a question about one of them, the answer."""
    people = rng.sample(NAMES, rng.randint(2, 6))
    codes = {person: rng.randint(100, 9999) for person in people}
    asked = rng.choice(people)
    told = " ".join(f"The code of {person} is {code}." for person, code in codes.items())
    return (
        f"Please remember: {told}",
        "I will remember that.",
        f"What is the code of {asked}?",
        f"The code of {asked} is {codes[asked]}.",
    )


@dataclass
class ToolCall:
    """A question that one of the offered tools answers."""

    offered: list  # names of tools
    question: str
    name: str
    arguments: dict
    result: dict
    answer: str


def tool_call(rng):
    """A question for one tool among up to four."""
    name = rng.choice(list(TOOLS))
    others = rng.sample([other for other in TOOLS if other != name], rng.randint(0, 3))
    offered = [*others, name]
    rng.shuffle(offered)
    return ToolCall(offered, name=name, **tool_use(rng, name))


def tool_use(rng, name):
    """Question, arguments, result and answer of one use of the tool `name`."""
    city, who, day = rng.choice(list(CAPITALS.values())), rng.choice(NAMES), rng.choice(DAYS)
    thing, minutes = rng.choice(THINGS), rng.randint(1, 90)
    if name == "get_weather":
        question = rng.choice([f"What is the weather in {city}?", f"Is it raining in {city}?"])
        arguments = {"city": city}
        result = {"weather": rng.choice(WEATHER), "temperature": rng.randint(-10, 35)}
        answer = f"It is {result['weather']} in {city}, with {result['temperature']} degrees."
    elif name == "add_event":
        question = f"Put lunch with {who} on {day} in my calendar."
        arguments = {"title": f"Lunch with {who}", "day": day}
        result = {"ok": True}
        answer = f"Lunch with {who} is in your calendar on {day}."
    elif name == "send_message":
        question = f"Tell {who} that I found the {thing}."
        arguments = {"to": who, "text": f"I found the {thing}."}
        result = {"ok": True}
        answer = f"I sent the message to {who}."
    elif name == "set_timer":
        question = f"Set a timer for {minutes} minutes."
        arguments = {"minutes": minutes}
        result = {"ok": True}
        answer = f"The timer is set for {minutes} minutes."
    elif name == "search_books":
        topic = rng.choice(ANIMALS)
        question = f"Find a book about a {topic}."
        arguments = {"topic": topic}
        result = {"title": f"The {rng.choice(MOODS).capitalize()} {topic.capitalize()}"}
        answer = f"I found a book called {result['title']}."
    else:
        meters = rng.randint(1, 99)
        question = f"Convert {meters} meters to centimeters."
        arguments = {"value": meters, "from": "meters", "to": "centimeters"}
        result = {"value": meters * 100}
        answer = f"{meters} meters are {meters * 100} centimeters."
    return {"question": question, "arguments": arguments, "result": result, "answer": answer}


def sample(rng):
    """One conversation: (messages, tools or None)."""
    system = rng.choice(SYSTEM_MESSAGES)
    messages = [{"role": "system", "content": system}] if system else []
    if rng.random() < 0.18:
        call = tool_call(rng)
        function = {"name": call.name, "arguments": call.arguments}
        calling = {**assistant(""), "tool_calls": [{"type": "function", "function": function}]}
        answered = {"role": "tool", "content": json.dumps(call.result)}
        messages += [user(call.question), calling, answered, assistant(call.answer)]
        return messages, tool_specs(call.offered)
    for _ in range(rng.choice([1, 1, 2, 3, 4])):
        messages += exchange(rng)
    return messages, None


def exchange(rng):
    """A question and its answer, or two of each where something is to be recalled."""
    kind = rng.random()
    if kind < 0.22:
        question, answer = story_request(rng)
    elif kind < 0.5:
        question, answer = fact(rng)
    elif kind < 0.76:
        expression, value = arithmetic(rng)
        ways = [f"What is {expression}?", f"Calculate {expression}.", f"{expression} = ?"]
        question, answer = rng.choice(ways), f"{expression} = {value}"
    elif kind < 0.86:
        question, answer = count(rng)
    else:
        told, acknowledged, question, answer = recall(rng)
        return [user(told), assistant(acknowledged), user(question), assistant(answer)]
    return [user(question), assistant(answer)]


def evaluation(seed, prompts=200):
    """Prompts with one right answer: a list of (skill, messages, tools, answer)."""
    rng = random.Random(seed)
    return [evaluation_prompt(rng) for _ in range(prompts)]


def evaluation_prompt(rng):
    kind = rng.randrange(5)
    if kind == 0:
        question, answer = fact(rng)
        return "fact", [user(question)], None, answer
    if kind == 1:
        expression, value = arithmetic(rng)
        return "arithmetic", [user(f"What is {expression}?")], None, f"{expression} = {value}"
    if kind == 2:
        question, answer = count(rng)
        return "count", [user(question)], None, answer
    if kind == 3:
        told, acknowledged, question, answer = recall(rng)
        return "recall", [user(told), assistant(acknowledged), user(question)], None, answer
    call = tool_call(rng)
    body = json.dumps({"name": call.name, "arguments": call.arguments})
    expected = f"<tool_call>\n{body}\n</tool_call>"
    return "tool", [user(call.question)], tool_specs(call.offered), expected
