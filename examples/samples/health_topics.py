"""Healthy habits: why they matter, first steps, slips, how much, and when to ask a doctor."""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    """Phrases that fit: "{why}.", "one can {step}", "many {slip}", "ask a doctor if {ask}"."""

    name: str
    why: tuple[str, str]
    steps: tuple[str, ...]
    slips: tuple[str, str]
    amount: str
    ask: tuple[str, str]


TOPICS = (
    Topic(
        "regular sleep",
        (
            "steady hours of sleep let the brain sort memories and repair tissue",
            "a fixed rhythm keeps appetite and mood hormones in balance",
        ),
        (
            "keep one wake-up time all week",
            "dim the lights an hour before bed",
            "charge the phone in another room",
            "read a few pages on paper",
        ),
        ("sleep in for hours at the weekend", "use alcohol as a sleeping aid"),
        "most adults need seven to nine hours, teenagers eight to ten",
        ("loud snoring comes with pauses in breathing", "poor nights continue for a month"),
    ),
    Topic(
        "brisk walking",
        (
            "it trains heart and lungs without straining the joints",
            "the large leg muscles take up sugar from the blood",
        ),
        (
            "get off the bus one stop early",
            "walk during phone calls",
            "plan a fixed round after lunch",
            "add a hill once the route feels easy",
        ),
        ("start with far too much on the first day", "stroll so slowly that breathing never changes"),
        "about half an hour on five days a week is a common goal for adults",
        ("chest pressure appears on the way", "calf pain forces a stop again and again"),
    ),
    Topic(
        "drinking enough water",
        (
            "blood, kidneys and the body's cooling all depend on fluid",
            "even slight dehydration lowers concentration",
        ),
        (
            "put a full carafe on the desk",
            "drink a glass with each meal",
            "carry a bottle on the road",
            "flavour water with lemon or mint",
        ),
        ("wait until thirst is strong", "replace water with sweet drinks"),
        "roughly one and a half to two litres a day suit most adults, more in heat",
        ("heart or kidney disease limits fluids", "thirst stays extreme despite drinking"),
    ),
    Topic(
        "eating more fibre",
        (
            "fibre feeds useful bacteria and keeps the bowel moving",
            "it slows the rise of blood sugar after a meal",
        ),
        (
            "swap white bread for wholegrain",
            "add beans to soups",
            "eat fruit with its skin",
            "begin the day with oats",
        ),
        ("raise the amount overnight", "forget to drink along with it"),
        "around thirty grams a day are recommended for adults",
        ("the bowel rhythm changes for weeks", "a bowel disease is known"),
    ),
    Topic(
        "hand washing",
        (
            "soap lifts germs off the skin before they reach mouth or eyes",
            "it interrupts the path of stomach viruses in a household",
        ),
        (
            "wet, lather and count to twenty",
            "clean thumbs and fingertips too",
            "dry with a fresh towel",
            "wash after public transport",
        ),
        ("rinse with water alone", "miss the space between the fingers"),
        "wash before meals, after the toilet and after coughing into the hand",
        ("the skin cracks and bleeds", "redness spreads over the hands"),
    ),
    Topic(
        "daily tooth care",
        (
            "plaque turns sugar into acid that softens enamel",
            "healthy gums hold teeth firmly for decades",
        ),
        (
            "brush for two minutes with fluoride paste",
            "clean between the teeth at night",
            "replace a frayed brush",
            "keep sweets to mealtimes",
        ),
        ("scrub hard right after orange juice", "stop brushing when the gums bleed"),
        "brush twice a day and visit a dentist about once a year",
        ("gums bleed for more than two weeks", "a tooth becomes loose"),
    ),
    Topic(
        "sun protection",
        (
            "ultraviolet rays age the skin and raise the risk of skin cancer",
            "burns in childhood count for a whole life",
        ),
        (
            "seek shade around noon",
            "wear a hat with a brim",
            "apply sunscreen generously",
            "repeat the cream after swimming",
        ),
        ("rely on one thin layer for the whole day", "forget ears and the back of the feet"),
        "use at least factor thirty and renew it every two hours outdoors",
        ("a mole changes in shape or colour", "a sore spot does not heal"),
    ),
    Topic(
        "strength training",
        (
            "muscle protects joints and keeps older people independent",
            "loaded bones stay denser",
        ),
        (
            "begin with chair squats",
            "use a resistance band",
            "push against a wall",
            "learn the movement before adding weight",
        ),
        ("hold the breath while lifting", "train the same muscles daily without rest"),
        "two sessions a week that cover the large muscle groups are enough to begin",
        ("a joint hurts sharply during an exercise", "blood pressure is high and untreated"),
    ),
    Topic(
        "a measured use of salt",
        (
            "too much sodium raises blood pressure in many people",
            "kidneys have to work harder to remove the surplus",
        ),
        (
            "taste before reaching for the shaker",
            "season with herbs and lemon",
            "compare labels of bread and cheese",
            "rinse canned beans",
        ),
        ("look only at the table salt", "eat instant soup every day"),
        "less than one level teaspoon a day from all food together is the usual advice",
        ("blood pressure is above 140 to 90 several times", "ankles swell in the evening"),
    ),
    Topic(
        "reducing added sugar",
        (
            "sweet drinks deliver energy without making anyone full",
            "frequent sugar keeps acid on the teeth all day",
        ),
        (
            "dilute juice step by step",
            "choose plain yoghurt with fruit",
            "keep biscuits out of sight",
            "read the first three ingredients",
        ),
        ("count only visible sugar", "swap all of it for sweeteners at once"),
        "fewer than fifty grams of free sugar a day is a sensible ceiling, half of that is better",
        ("constant thirst and tiredness appear", "weight changes quickly"),
    ),
    Topic(
        "vaccination check-ups",
        (
            "protection against tetanus and some other diseases fades with time",
            "a protected person also shields newborns nearby",
        ),
        (
            "find the vaccination record",
            "photograph each page",
            "ask at the next visit what is due",
            "note the booster date",
        ),
        ("assume that childhood doses last for ever", "think of it only days before a journey"),
        "adults usually refresh tetanus every ten years, and other dates depend on age",
        ("a severe reaction followed an earlier dose", "pregnancy is planned"),
    ),
    Topic(
        "measuring blood pressure at home",
        (
            "high values hurt vessels long before anybody feels them",
            "readings at home leave out the nervousness of a visit",
        ),
        (
            "sit quietly for five minutes",
            "rest the arm at heart height",
            "use a cuff of the right size",
            "write down date and value",
        ),
        ("measure straight after coffee or stairs", "talk while the cuff inflates"),
        "two readings in the morning and evening for a week give a fair picture",
        ("values stay above 135 to 85 at home", "a headache comes with very high readings"),
    ),
    Topic(
        "safe storage of medicines",
        (
            "heat and moisture weaken tablets",
            "children mistake coloured pills for sweets",
        ),
        (
            "lock the cabinet",
            "keep the leaflet with the box",
            "check expiry dates twice a year",
            "return leftovers to a pharmacy",
        ),
        ("keep everything in the steamy bathroom", "mix different pills in one jar"),
        "most products belong in a dry place below 25 °C, some in the fridge",
        ("somebody took the wrong tablet", "a remedy looks or smells different"),
    ),
    Topic(
        "a healthy workplace posture",
        (
            "muscles tire when they hold one position for hours",
            "a screen at the wrong height pulls the head forward",
        ),
        (
            "set the top of the screen at eye level",
            "keep both feet on the floor",
            "stand up for calls",
            "move the chair close to the desk",
        ),
        ("search for one perfect posture", "cradle the phone between ear and shoulder"),
        "changing position every half hour matters more than any chair",
        ("an arm tingles or weakens", "back pain lasts beyond six weeks"),
    ),
    Topic(
        "handling stress",
        (
            "constant alarm raises pulse and blood pressure",
            "recovery after effort makes the mind more resilient",
        ),
        (
            "take three slow breaths before a meeting",
            "write a short list for tomorrow",
            "agree on times without messages",
            "meet friends on a fixed evening",
        ),
        ("cancel sleep and sport first", "expect it to vanish by ignoring it"),
        "ten quiet minutes every day work better than one long break a month",
        ("panic attacks occur", "sadness lasts longer than two weeks"),
    ),
    Topic(
        "food safety in the kitchen",
        (
            "bacteria multiply quickly at room temperature",
            "raw poultry can carry germs to salad and hands",
        ),
        (
            "use a separate board for meat",
            "cool leftovers soon",
            "heat dishes until they steam",
            "wash cloths hot",
        ),
        ("wash raw chicken in the sink", "thaw meat on the counter"),
        "put leftovers into the fridge within two hours and eat them within three days",
        ("vomiting lasts more than a day", "a pregnant woman ate a risky product"),
    ),
    Topic(
        "stopping smoking",
        (
            "circulation improves within weeks of the last cigarette",
            "the risk of heart attack falls year after year",
        ),
        (
            "choose a date and tell friends",
            "throw away ashtrays",
            "plan what to do when craving strikes",
            "ask for a counselling course",
        ),
        ("treat one slip as total failure", "keep an emergency packet"),
        "a craving usually fades after three to five minutes, so short distractions are enough",
        ("nicotine replacement is considered during pregnancy", "a cough brings up blood"),
    ),
    Topic(
        "moderate use of alcohol",
        (
            "alcohol disturbs sleep and strains the liver",
            "less drinking lowers blood pressure and the risk of several cancers",
        ),
        (
            "plan days without any drink",
            "order the small glass",
            "alternate with water",
            "find an alcohol-free favourite",
        ),
        ("save up the week's drinks for Saturday", "drink to calm nerves"),
        "the less the better, and none at all in pregnancy or before driving",
        ("hands tremble in the morning", "cutting down feels impossible"),
    ),
    Topic(
        "fall prevention at home",
        (
            "a broken hip often ends independence in old age",
            "balance can be trained at every age",
        ),
        (
            "fix loose rugs",
            "install a night light",
            "fit grab bars in the shower",
            "practise standing on one leg beside a table",
        ),
        ("walk in socks on smooth floors", "climb on chairs for the top shelf"),
        "balance exercises three times a week are a good dose",
        ("dizziness comes on standing up", "a second fall happens within a year"),
    ),
    Topic(
        "breaks from screens",
        (
            "staring dries the eyes because blinking becomes rare",
            "bright light late at night delays sleep",
        ),
        (
            "look out of a window regularly",
            "turn off needless alerts",
            "eat without the phone",
            "use larger letters",
        ),
        ("take a break from one screen on another", "work in a dark room"),
        "a look into the distance for twenty seconds every twenty minutes is easy to remember",
        ("double vision appears", "headaches come almost daily"),
    ),
    Topic(
        "a balanced breakfast",
        (
            "protein and whole grains keep people full until noon",
            "a calm morning meal supplies fibre that is otherwise missed",
        ),
        (
            "soak oats overnight",
            "boil eggs in advance",
            "add nuts to yoghurt",
            "cut fruit the evening before",
        ),
        ("choose cereal that is mostly sugar", "force food down without any hunger"),
        "about a quarter of the day's energy is plenty, and a later meal is fine too",
        ("appetite is gone for weeks", "morning sickness prevents eating"),
    ),
    Topic(
        "breathing exercises",
        (
            "slow breathing out quiets the stress response",
            "calm breaths use the diaphragm rather than tight shoulders",
        ),
        (
            "breathe in for four counts and out for six",
            "lay a hand on the belly",
            "practise before sleep",
            "pair it with the morning tea",
        ),
        ("breathe so deeply that dizziness starts", "practise only in a crisis"),
        "five minutes twice a day show an effect within some weeks",
        ("breathlessness occurs at rest", "asthma is getting worse"),
    ),
    Topic(
        "a first-aid kit",
        (
            "the right dressing at hand saves minutes",
            "a complete kit prevents improvised mistakes",
        ),
        (
            "pack plasters, gauze and gloves",
            "add a list of emergency numbers",
            "store it where all can reach it",
            "check it after each use",
        ),
        ("let the sterile dressings expire", "bury it under winter coats"),
        "one kit at home and one in the car, checked once a year, cover most needs",
        ("a wound gapes or is dirty", "bleeding does not stop under pressure"),
    ),
    Topic(
        "hearing protection",
        (
            "hair cells in the inner ear do not grow back",
            "loud tools harm hearing even if they do not hurt",
        ),
        (
            "wear earplugs at concerts",
            "keep headphones below two thirds of full volume",
            "take quiet pauses",
            "stand away from loudspeakers",
        ),
        ("accept ringing ears after parties", "raise the volume in noisy trains"),
        "at 85 decibels eight hours are the limit, and every few decibels more halve that time",
        ("ringing lasts longer than a day", "hearing drops suddenly"),
    ),
    Topic(
        "keeping a medication list",
        (
            "it helps to spot remedies that do not go together",
            "in an emergency strangers can read what is being taken",
        ),
        (
            "note name, strength and time",
            "include herbal products",
            "carry a copy in the wallet",
            "update it after each appointment",
        ),
        ("leave out what was bought without prescription", "keep several versions"),
        "one page is enough, and it should be reviewed at least once a year",
        ("a new remedy causes dizziness", "two doctors prescribe similar tablets"),
    ),
)
