"""Word lists and small facts for the instruction rows."""

from __future__ import annotations

NAMES = ("Mara", "Tobias", "Ines", "Kofi", "Yuki", "Pavel", "Amina", "Luca", "Freya", "Ravi", "Elif", "Noah")

# (unit, other unit, factor)
UNITS = (
    ("kilometres", "miles", 0.6214), ("kilograms", "pounds", 2.2046), ("inches", "centimetres", 2.54),
    ("litres", "US gallons", 0.2642), ("metres", "feet", 3.2808), ("hectares", "acres", 2.4711),
    ("ounces", "grams", 28.35), ("knots", "kilometres per hour", 1.852),
)  # fmt: skip
GOODS = (
    "backpack",
    "desk lamp",
    "winter coat",
    "bicycle helmet",
    "coffee grinder",
    "tent",
    "garden chair",
    "keyboard",
    "frying pan",
    "parasol",
    "rain jacket",
    "suitcase",
)
MEASURED = (
    "pages read per evening", "visitors per day", "minutes of waiting", "eggs collected each morning",
    "points per match", "parcels per tour", "passengers per bus", "sales per stall", "laps swum per lesson",
)  # fmt: skip
WORDS = (
    "lantern",
    "cedar",
    "anchor",
    "violet",
    "ginger",
    "meadow",
    "pebble",
    "harbour",
    "oyster",
    "thimble",
    "quartz",
    "walnut",
    "basket",
    "drizzle",
    "ember",
    "falcon",
    "igloo",
    "jasmine",
    "kettle",
    "nectar",
    "ribbon",
    "saddle",
    "tunnel",
    "velvet",
    "yonder",
    "zephyr",
)

# (to whom, wish, reason)
REQUESTS = (
    ("my landlord", "have the dripping tap in the kitchen repaired", "it keeps the family awake"),
    ("a teacher", "move the parents' talk to Thursday", "I work late on Tuesdays"),
    ("the hotel", "check in two hours early", "our ferry arrives in the morning"),
    ("a supplier", "send the missing invoice for March", "the books close on Friday"),
    ("my team lead", "work from home next Monday", "a plumber is coming"),
    ("the library", "extend the loan of two books", "I am still writing my essay"),
    ("a neighbour", "trim the hedge beside the path", "the pram no longer fits through"),
    ("the town hall", "learn which papers a market stall needs", "we want to sell honey in June"),
    ("a customer", "choose another delivery date", "the van broke down"),
    ("my dentist", "postpone the check-up by a week", "I caught a cold"),
    ("the choir leader", "receive the notes in advance", "I read music slowly"),
    ("a museum", "book a guided tour for fifteen people", "our club turns twenty this autumn"),
)
TRIPS = {
    "a weekend by the sea": (
        "swimwear",
        "sunscreen",
        "a light jumper",
        "flip-flops",
        "a novel",
        "a beach towel",
    ),
    "a hike in the hills": (
        "sturdy boots",
        "a map",
        "rain clothes",
        "trail mix",
        "plasters",
        "a full bottle",
    ),
    "a city break by train": (
        "a phone charger",
        "comfortable shoes",
        "a small umbrella",
        "earplugs",
        "tickets",
    ),
    "a camping night": ("a sleeping bag", "a head torch", "matches", "a mug", "warm socks", "a rubbish bag"),
    "a winter visit to relatives": (
        "gifts",
        "gloves",
        "a scarf",
        "a board game",
        "slippers",
        "a thermos flask",
    ),
    "a cycling tour": ("a pump", "a spare tube", "padded shorts", "lights", "energy bars", "a lock"),
}

# (concept, what it is, a picture for it, where it is met)
CONCEPTS = (
    (
        "inflation",
        "prices rise in general, so the same coin buys less",
        "a ruler that shrinks a little each year",
        "the price of bread over ten years",
    ),
    (
        "photosynthesis",
        "plants turn light, water and carbon dioxide into sugar",
        "a kitchen that runs on sunshine",
        "every green leaf",
    ),
    (
        "a hash function",
        "any data becomes a short fingerprint of fixed length",
        "a fingerprint in a police file",
        "verifying a download",
    ),
    (
        "compound interest",
        "interest itself earns interest",
        "a snowball that grows as it rolls",
        "a savings account",
    ),
    ("gravity", "masses pull on one another", "a heavy ball on a stretched cloth", "the tides"),
    (
        "recursion",
        "a function calls itself on a smaller problem",
        "a doll with a smaller doll inside",
        "walking through folders",
    ),
    (
        "the water cycle",
        "water evaporates, forms clouds and returns as rain",
        "a fountain that refills itself",
        "morning fog above a lake",
    ),
    (
        "supply and demand",
        "scarce and wanted goods become dearer",
        "a seesaw with buyers on one end",
        "strawberries in winter",
    ),
    (
        "an ecosystem",
        "living things and their surroundings depend on each other",
        "a web in which each thread holds",
        "a garden pond",
    ),
    (
        "a firewall",
        "rules decide which network traffic may pass",
        "a doorman with a guest list",
        "an office network",
    ),
    (
        "friction",
        "surfaces resist sliding past one another",
        "two brushes pressed together",
        "the brakes of a bike",
    ),
    (
        "machine learning",
        "a program finds patterns in examples instead of following fixed rules",
        "an apprentice who watches a baker",
        "sorting unwanted mail",
    ),
    (
        "leap years",
        "an extra day keeps the calendar in step with the Sun",
        "a clock that is set right now and then",
        "the 29th of February",
    ),
    (
        "a cooperative",
        "members own a business together and vote on it",
        "a boat where all rowers steer",
        "village shops and dairies",
    ),
    (
        "yeast dough",
        "yeast eats sugar and fills dough with gas",
        "thousands of tiny balloons",
        "pizza and bread",
    ),
    (
        "a cache",
        "results are kept close by for the next time",
        "a notepad beside the phone",
        "fast web pages",
    ),
    (
        "an eclipse",
        "one body in space moves into another's shadow",
        "a coin held before a lamp",
        "the Moon covering the Sun",
    ),
    (
        "opportunity cost",
        "choosing one thing means giving up the next best",
        "a fork in a path",
        "an evening class instead of overtime",
    ),
)
LISTENERS = (
    "a ten-year-old",
    "a new colleague",
    "my grandfather",
    "a curious neighbour",
    "a school class",
    "a busy reader",
)

# (one, its strengths, other, its strengths)
PAIRS = (
    (
        "a train",
        ("you can read on the way", "it arrives in the centre"),
        "a car",
        ("it waits for you", "it carries heavy bags"),
    ),
    (
        "a paper notebook",
        ("it needs no battery", "drawing is easy"),
        "a notes app",
        ("it can be searched", "it is never left at home"),
    ),
    (
        "tea",
        ("it comes in many mild kinds", "it is cheap"),
        "coffee",
        ("it wakes quickly", "it suits company"),
    ),
    (
        "renting",
        ("moving is simple", "repairs are not your bill"),
        "buying a flat",
        ("walls may be changed", "payments build property"),
    ),
    (
        "a cat",
        ("it keeps itself clean", "it sleeps alone happily"),
        "a dog",
        ("it joins long walks", "it learns many commands"),
    ),
    (
        "a gas hob",
        ("heat changes at once", "any pan works"),
        "an induction hob",
        ("it is easy to wipe", "little heat is lost"),
    ),
    (
        "a small team",
        ("decisions are quick", "everybody knows the plan"),
        "a large team",
        ("skills are broad", "absences hurt less"),
    ),
    (
        "a static website",
        ("it loads fast", "there is little to attack"),
        "a web app",
        ("users can log in", "content adapts to them"),
    ),
    (
        "a city flat",
        ("shops are close", "buses run all night"),
        "a country house",
        ("nights are silent", "there is room for a garden"),
    ),
    (
        "a printed map",
        ("it shows the whole region", "rain cover is all it needs"),
        "a navigation app",
        ("it knows the traffic", "it speaks"),
    ),
)
CODE = (
    (
        "returns the largest number of a list without using max",
        "largest",
        "def largest(numbers):\n    best = numbers[0]\n"
        "    for number in numbers:\n        if number > best:\n            best = number\n    return best",
        "it keeps the best value so far and replaces it when a larger one comes",
    ),
    (
        "counts the vowels in a word",
        "count_vowels",
        'def count_vowels(word):\n    return sum(letter in "aeiou" for letter in word.lower())',
        "each test gives True or False, and Python adds them as one or zero",
    ),
    (
        "tells whether a word reads the same backwards",
        "is_palindrome",
        "def is_palindrome(word):\n    plain = word.lower()\n    return plain == plain[::-1]",
        "the slice with a step of minus one reverses the text",
    ),
    (
        "gives the factorial of a whole number",
        "factorial",
        "def factorial(n):\n    result = 1\n    for k in range(2, n + 1):\n        result *= k\n    return result",
        "the loop multiplies all whole numbers up to n",
    ),
    (
        "removes repeated entries but keeps the order",
        "unique",
        "def unique(items):\n    return list(dict.fromkeys(items))",
        "a dictionary remembers keys in the order in which they came",
    ),
    (
        "turns Celsius into Fahrenheit",
        "to_fahrenheit",
        "def to_fahrenheit(celsius):\n    return celsius * 9 / 5 + 32",
        "it scales by nine fifths and shifts by thirty-two",
    ),
    (
        "finds how often each word occurs in a text",
        "word_counts",
        "from collections import Counter\n\ndef word_counts(text):\n    return Counter(text.lower().split())",
        "split cuts at blanks and Counter does the bookkeeping",
    ),
    (
        "checks whether a year is a leap year",
        "is_leap",
        "def is_leap(year):\n    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)",
        "full centuries count only when 400 divides them",
    ),
    (
        "flattens a list of lists",
        "flatten",
        "def flatten(rows):\n    return [item for row in rows for item in row]",
        "the two loops of the comprehension run from the outer to the inner list",
    ),
    (
        "computes the greatest common divisor",
        "gcd",
        "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a",
        "this is Euclid's method: replace the pair by the smaller number and the remainder",
    ),
    (
        "splits a list into pieces of a given size",
        "chunks",
        "def chunks(items, size):\n    return [items[i:i + size] for i in range(0, len(items), size)]",
        "range jumps from one start to the next",
    ),
    (
        "reads numbers from a file, one per line, and adds them",
        "total",
        'def total(path):\n    with open(path, encoding="utf-8") as lines:\n'
        "        return sum(float(line) for line in lines if line.strip())",
        "blank lines are skipped and the file is closed by itself",
    ),
)
PRODUCTS = (
    "a kettle",
    "a lamp",
    "a phone case",
    "an alarm clock",
    "a blender",
    "a rucksack",
    "a tent",
    "a watch",
)
PRAISE = (
    "works just as promised",
    "looks lovely",
    "was cheaper than expected",
    "arrived a day early",
    "feels solid",
    "the courier was kind",
    "I would choose it again",
    "even my critical aunt liked it",
)
BLAME = (
    "broke within a week",
    "smelled odd",
    "nobody answered my letters",
    "was far too large",
    "the colour was wrong",
    "cost extra without notice",
    "the manual made no sense",
    "felt flimsy",
)
VEGETABLES = (
    "carrots",
    "spinach",
    "leeks",
    "courgettes",
    "peppers",
    "mushrooms",
    "pumpkin",
    "tomatoes",
    "broccoli",
)
STAPLES = ("rice", "potatoes", "noodles", "lentils", "couscous", "polenta", "chickpeas")
FLAVOURS = (
    "garlic and thyme",
    "ginger and soy sauce",
    "lemon and parsley",
    "smoked paprika",
    "cumin and yoghurt",
    "basil",
)
HEROES = (
    "a retired clockmaker",
    "a girl with a red kite",
    "the last lighthouse keeper",
    "a shy postman",
    "two rival bakers",
    "a young archivist",
)
PLACES = (
    "in a village without a road",
    "on a slow night train",
    "beneath the old theatre",
    "beside a frozen canal",
    "at the edge of the desert",
    "in a town of bridges",
)
FINDS = (
    "a letter dated tomorrow",
    "a key made of glass",
    "a map with one missing street",
    "a music box that hums back",
    "a coat with a stranger's name",
    "an empty birdcage, still warm",
)
ENDINGS = {
    "hopeful": (
        "for once, the day seemed to be on the right side",
        "it was exactly what had been missing all year",
    ),
    "mysterious": (
        "nobody in the house had ever seen it before",
        "far away, the bells began to ring by themselves",
    ),
    "funny": ("breakfast, of course, had to come first", "the cat claimed to know nothing about it"),
    "quiet": ("outside, snow went on falling without a sound", "there was plenty of time to think about it"),
    "tense": ("this time, there was no turning back", "somebody on the stairs had stopped to listen"),
}
TASKS = (
    "answering mail",
    "learning vocabulary",
    "cooking lunch",
    "tidying the workshop",
    "practising the guitar",
    "writing a report",
    "a walk",
    "a call with the bank",
    "watering the plants",
    "repairing a bike",
)

# (event, what else is known about it)
EVENTS = (
    (
        "the spring plant market",
        ("more than forty growers bring herbs and seedlings", "children may pot a bean for free"),
    ),
    (
        "a repair evening",
        ("volunteers mend lamps, toys and trousers", "spare parts are paid for by the visitors"),
    ),
    (
        "the open-air film night",
        ("the silent comedy is accompanied by a pianist", "blankets can be borrowed"),
    ),
    ("a first lesson in rowing", ("boats and vests are provided", "everybody has to be able to swim")),
    ("the book exchange", ("each visitor brings up to ten books", "what is left over goes to the hospital")),
    ("a talk about bats", ("the speaker has counted bats for twenty years", "a walk with detectors follows")),
    (
        "the village run",
        ("there are routes of three and eight kilometres", "the winner receives a basket of apples"),
    ),
    (
        "a bread baking course",
        ("each guest takes home a loaf and a starter", "aprons should be brought along"),
    ),
)
SPOTS = (
    "in the old fire station",
    "behind the town hall",
    "at the lake",
    "in the school gym",
    "on the church square",
)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
SPARE = (
    "the organisers thank all sponsors of the past years",
    "parking is scarce, so coming by bike is recommended",
    "dogs are welcome on a lead",
    "the local band has promised two new pieces",
    "last year's meeting had been cancelled because of a storm",
    "cake and coffee are sold by the sports club",
)

# (aim, steps)
GUIDES = (
    (
        "grow tomatoes on a balcony",
        (
            "choose a sunny corner",
            "use a pot of at least ten litres",
            "water the soil and not the leaves",
            "tie the stem to a stick",
            "feed the plant every two weeks",
            "pinch out side shoots",
            "harvest when the colour is even",
        ),
    ),
    (
        "prepare for a job interview",
        (
            "read the advertisement once more",
            "find three examples of your own work",
            "practise a short introduction aloud",
            "plan the journey with a reserve",
            "prepare two questions of your own",
            "lay out clothes the evening before",
            "send a short thank-you note afterwards",
        ),
    ),
    (
        "learn a language beside work",
        (
            "fix twenty minutes a day",
            "start with the hundred words you need most",
            "listen while commuting",
            "speak with somebody every week",
            "label things at home",
            "repeat old cards before new ones",
            "watch a film that you already know",
        ),
    ),
    (
        "save electricity at home",
        (
            "measure the oldest devices first",
            "switch off at the socket",
            "wash at a low temperature",
            "cook with the lid on",
            "defrost the freezer",
            "replace the last old bulbs",
            "dry laundry on a line",
        ),
    ),
    (
        "host a quiz evening",
        (
            "mix easy and hard questions",
            "form teams of four",
            "choose one person who keeps the score",
            "include a round with music",
            "plan a break after the third round",
            "have a tie-break ready",
            "keep the prizes small",
        ),
    ),
    (
        "take better photographs",
        (
            "clean the lens",
            "wait for soft evening light",
            "move closer before zooming",
            "put the horizon off centre",
            "look for a calm background",
            "hold your breath at slow speeds",
            "delete weak pictures the same day",
        ),
    ),
    (
        "move house calmly",
        (
            "write an inventory",
            "give away what was not used for a year",
            "number every box",
            "pack books in small boxes",
            "keep tools and kettle at hand",
            "tell post and bank the new address",
            "read all meters on the last day",
        ),
    ),
    (
        "run a short meeting",
        (
            "send the aim beforehand",
            "invite only those who decide",
            "begin on time",
            "give each point a limit",
            "write decisions where all can see them",
            "name one person per task",
            "finish five minutes early",
        ),
    ),
)
