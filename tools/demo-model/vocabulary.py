"""The names, things and facts that the corpus is made of."""

NAMES = """
Mia Leo Nora Sam Ivy Max Lily Finn Zoe Ben Ada Tom Ruby Eli Maya Jack Rosa Theo Luna Omar
Ella Hugo Nina Paul Vera Noah Iris Carl Emma Dan
""".split()

ANIMALS = """
fox rabbit bear owl mouse frog duck cat dog horse sheep goat turtle lion tiger monkey squirrel
hedgehog penguin wolf
""".split()

PLACES = [
    *("forest", "garden", "river", "hill", "village", "market", "beach", "old mill", "meadow"),
    *("castle", "library", "barn", "cave", "lake", "harbor", "bakery", "mountain", "school"),
]

THINGS = [
    *("lantern", "key", "map", "red ball", "blue kite", "golden bell", "silver coin"),
    *("wooden boat", "drum", "letter", "warm scarf", "small mirror", "box of seeds"),
    *("green hat", "book", "feather", "shell", "cake"),
]

MOODS = "happy sad curious brave shy tired proud lonely cheerful clever gentle hungry".split()

WEATHER = "sunny rainy windy snowy foggy warm cold stormy".split()

CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "Austria": "Vienna",
    "Greece": "Athens",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Denmark": "Copenhagen",
    "Poland": "Warsaw",
    "Hungary": "Budapest",
    "Ireland": "Dublin",
    "Belgium": "Brussels",
    "Iceland": "Reykjavik",
    "Japan": "Tokyo",
    "China": "Beijing",
    "India": "New Delhi",
    "Thailand": "Bangkok",
    "Vietnam": "Hanoi",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Ghana": "Accra",
    "Peru": "Lima",
    "Chile": "Santiago",
    "Cuba": "Havana",
    "Canada": "Ottawa",
    "Mexico": "Mexico City",
    "Brazil": "Brasilia",
    "Argentina": "Buenos Aires",
    "Colombia": "Bogota",
    "Australia": "Canberra",
    "New Zealand": "Wellington",
    "Turkey": "Ankara",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Nepal": "Kathmandu",
    "Russia": "Moscow",
    "Ukraine": "Kyiv",
    "Romania": "Bucharest",
    "Bulgaria": "Sofia",
    "Serbia": "Belgrade",
    "Croatia": "Zagreb",
    "Morocco": "Rabat",
    "Tunisia": "Tunis",
    "Senegal": "Dakar",
    "Uganda": "Kampala",
    "Mongolia": "Ulaanbaatar",
    "Malta": "Valletta",
}

OPPOSITES = {
    "hot": "cold",
    "big": "small",
    "fast": "slow",
    "up": "down",
    "left": "right",
    "day": "night",
    "happy": "sad",
    "open": "closed",
    "full": "empty",
    "old": "new",
    "hard": "soft",
    "wet": "dry",
    "early": "late",
    "high": "low",
    "light": "dark",
    "loud": "quiet",
    "long": "short",
    "near": "far",
    "rich": "poor",
    "strong": "weak",
}

SOUNDS = {
    "dog": "woof",
    "cat": "meow",
    "cow": "moo",
    "duck": "quack",
    "sheep": "baa",
    "lion": "roar",
    "horse": "neigh",
    "frog": "ribbit",
    "bee": "buzz",
    "owl": "hoot",
    "mouse": "squeak",
    "rooster": "cock-a-doodle-doo",
}

COLORS = {
    "grass": "green",
    "snow": "white",
    "the sky": "blue",
    "a lemon": "yellow",
    "a strawberry": "red",
    "coal": "black",
    "a carrot": "orange",
    "a plum": "purple",
    "chocolate": "brown",
    "an elephant": "gray",
}

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()

MONTHS = """
January February March April May June July August September October November December
""".split()

NUMBER_WORDS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty
""".split()

# Name of each tool: its description and the type of each parameter.
TOOLS = {
    "get_weather": ("Get the current weather in a city.", {"city": "string"}),
    "add_event": ("Add an event to the calendar.", {"title": "string", "day": "string"}),
    "send_message": ("Send a message to a person.", {"to": "string", "text": "string"}),
    "set_timer": ("Set a timer.", {"minutes": "integer"}),
    "search_books": ("Search for books about a topic.", {"topic": "string"}),
    "convert_units": (
        "Convert a length.",
        {"value": "integer", "from": "string", "to": "string"},
    ),
}

# No system message in two conversations of five.
SYSTEM_MESSAGES = [
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "You answer in short sentences.",
    None,
    None,
]
