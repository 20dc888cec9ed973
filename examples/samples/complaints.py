"""Everyday complaints: what is behind them, what helps, when to see a doctor. General advice, no doses."""

from __future__ import annotations

from typing import NamedTuple


class Complaint(NamedTuple):
    """Phrases that fit: "I have {name}", "{why}.", "it helps to {tip}", "see a doctor if {sign}".

    An emergency is a sign that cannot wait for an appointment.
    """

    name: str
    why: tuple[str, ...]
    tips: tuple[str, ...]
    signs: tuple[str, ...]
    emergency: str = ""


COMPLAINTS = (
    Complaint(
        "a dry cough",
        ("the airways stay irritable for a while after a cold", "dry indoor air can tickle the throat"),
        (
            "sip warm drinks through the day",
            "stir a little honey into herbal tea",
            "raise the head of the bed at night",
            "keep the bedroom air moist",
            "stay away from smoke and strong scents",
        ),
        (
            "it lasts longer than three weeks",
            "night sweats or weight loss come with it",
            "blood shows up in the tissue",
        ),
        emergency="breathing becomes hard",
    ),
    Complaint(
        "a sore throat",
        (
            "most throats turn sore because of an ordinary virus",
            "shouting, dust and dry air also irritate the throat",
        ),
        (
            "gargle with lukewarm salt water",
            "suck sugar-free lozenges",
            "choose soft, cool food such as yoghurt",
            "rest the voice for a day",
            "drink small amounts often",
        ),
        (
            "the neck glands stay swollen",
            "one side of the throat swells",
            "it is no better after a week",
        ),
        emergency="even saliva cannot be swallowed",
    ),
    Complaint(
        "a blocked nose",
        (
            "swollen lining, rather than mucus alone, closes the passages",
            "a cold or an allergy makes the inner nose swell",
        ),
        (
            "rinse the nose with saline",
            "take a warm shower before bed",
            "sleep with an extra pillow",
            "drink plenty of water",
            "air the room twice a day",
        ),
        (
            "pain spreads over the forehead and cheeks",
            "it goes on for more than two weeks",
            "only one side is ever blocked",
        ),
    ),
    Complaint(
        "a tension headache",
        (
            "tight muscles in the neck and scalp are a frequent source",
            "long hours at a screen and too little water often set it off",
        ),
        (
            "drink a large glass of water",
            "take a short walk in fresh air",
            "stretch the shoulders every hour",
            "dim the screen a little",
            "place a cool cloth on the forehead",
        ),
        (
            "it returns on most days of the month",
            "it comes with a stiff neck and fever",
            "it began after starting a new medicine",
        ),
        emergency="it starts suddenly and is the worst ever, or speech or sight changes",
    ),
    Complaint(
        "heartburn",
        (
            "stomach acid flows back into the food pipe",
            "large late meals press acid upwards when lying down",
        ),
        (
            "eat the last meal three hours before bed",
            "choose smaller portions",
            "leave out fatty and very spicy dishes",
            "raise the upper body at night",
            "wear looser clothes around the waist",
        ),
        (
            "swallowing starts to hurt",
            "weight drops without any reason",
            "it returns several times a week",
        ),
        emergency="pressure in the chest spreads to the arm or jaw",
    ),
    Complaint(
        "constipation",
        (
            "too little fibre, water and movement slow the bowel down",
            "a change of routine, for example a journey, is enough to slow digestion",
        ),
        (
            "add oats, pears or lentils to the menu",
            "walk for half an hour each day",
            "drink a glass of water with every meal",
            "go to the toilet at the same time daily",
            "put the feet on a low stool while sitting there",
        ),
        ("there is blood in the stool", "severe belly pain begins", "weight drops without any reason"),
    ),
    Complaint(
        "mild diarrhoea",
        (
            "a short infection of the gut is the likeliest explanation",
            "unfamiliar food or a nervous day can speed up the bowel",
        ),
        (
            "replace the lost fluid with broth or an oral rehydration drink",
            "eat plain rice, bananas or toast",
            "wash hands carefully after each toilet visit",
            "skip alcohol and very fatty meals",
            "return to normal food step by step",
        ),
        (
            "it lasts longer than three days",
            "there is blood or high fever",
            "dizziness or very dark urine points to dehydration",
        ),
    ),
    Complaint(
        "lower back pain",
        (
            "most back pain comes from strained muscles and settles by itself",
            "sitting for hours without a break stiffens the lower spine",
        ),
        (
            "stay gently active instead of lying in bed",
            "put a warm pack on the sore area",
            "bend the knees when lifting",
            "change position every thirty minutes",
            "sleep on the side with a pillow between the knees",
        ),
        (
            "a leg becomes weak or numb",
            "it has not improved after four weeks",
            "it follows a fall",
        ),
        emergency="control of bladder or bowel is lost",
    ),
    Complaint(
        "a stiff neck",
        (
            "an awkward pillow or a cold draught tightens the neck overnight",
            "looking down at a phone strains the small neck muscles",
        ),
        (
            "turn the head slowly within the comfortable range",
            "apply gentle warmth",
            "bring the screen up to eye level",
            "try a flatter pillow",
            "let the shoulders drop and breathe out slowly",
        ),
        (
            "it has not improved after two weeks",
            "tingling runs down an arm",
            "it began after an accident",
        ),
        emergency="fever and a bad headache join in",
    ),
    Complaint(
        "trouble falling asleep",
        (
            "late coffee, bright screens and worry keep the brain alert",
            "going to bed at changing hours confuses the inner clock",
        ),
        (
            "get up at the same time every day",
            "leave the phone outside the bedroom",
            "have the last coffee before noon",
            "write tomorrow's tasks on paper",
            "keep the room dark and cool",
        ),
        (
            "it continues for more than a month",
            "loud snoring with pauses is noticed",
            "low mood stays most of the day",
        ),
    ),
    Complaint(
        "dry, itchy skin",
        (
            "cold air and hot showers strip the skin of its natural oil",
            "perfumed soap often dries the skin further",
        ),
        (
            "keep showers short and lukewarm",
            "apply plain cream within minutes of drying off",
            "switch to a mild wash without scent",
            "wear cotton next to the skin",
            "cut the nails short to limit scratching",
        ),
        (
            "the skin cracks, oozes or turns hot",
            "the itch covers the whole body",
            "the eyes look yellow",
        ),
    ),
    Complaint(
        "a mild sunburn",
        (
            "ultraviolet light has injured the top layer of skin",
            "clouds and water still let through or reflect a lot of sun",
        ),
        (
            "cool the area with damp cloths",
            "use a light lotion with aloe",
            "drink more than usual",
            "wear loose clothes until it heals",
            "stay in the shade for some days",
        ),
        (
            "large blisters form",
            "it still hurts after a week",
            "the burn covers a child's back or chest",
        ),
        emergency="confusion or fainting follows",
    ),
    Complaint(
        "a sprained ankle",
        (
            "the ligaments were stretched when the foot rolled inwards",
            "fluid gathers round an overstretched joint and makes it swell",
        ),
        (
            "rest the foot and raise it on cushions",
            "cool it through a towel for short spells",
            "support it with an elastic bandage",
            "begin gentle circles once pain allows",
            "go back to sport slowly",
        ),
        (
            "four steps in a row are impossible",
            "the bone itself hurts on touch",
            "the foot turns cold or numb",
        ),
    ),
    Complaint(
        "a small kitchen burn",
        (
            "heat has damaged only the surface when the skin is red without blisters",
            "steam burns as easily as a hot pan",
        ),
        (
            "hold it under cool running water for twenty minutes",
            "take off rings before swelling starts",
            "cover it loosely with clean cling film",
            "leave butter, toothpaste and ice away from it",
            "keep it clean while it heals",
        ),
        (
            "the pain grows after the first day",
            "it sits on the face, a joint or the hand",
            "blisters cover more than a coin",
        ),
        emergency="the burn is larger than the palm or the skin looks white",
    ),
    Complaint(
        "hay fever",
        (
            "the immune system treats harmless pollen as a threat",
            "dry, windy mornings carry the most pollen",
        ),
        (
            "rinse hair and face after coming home",
            "keep windows shut while pollen counts are high",
            "dry the laundry indoors",
            "wear wraparound sunglasses",
            "ask a pharmacist which allergy remedy fits",
        ),
        (
            "wheezing is heard for the first time",
            "sleep suffers for weeks",
            "remedies from the pharmacy do not help",
        ),
        emergency="breathing becomes a struggle",
    ),
    Complaint(
        "eye strain",
        (
            "people blink far less often in front of a screen",
            "glare and small letters make the focusing muscles work hard",
        ),
        (
            "look at something distant every twenty minutes",
            "blink on purpose now and then",
            "move the lamp so that it does not reflect",
            "enlarge the text",
            "have glasses checked once in a while",
        ),
        (
            "sight becomes blurred or double",
            "the eye is red and painful",
            "reading stays difficult despite breaks",
        ),
        emergency="sight is lost or a shadow crosses it all of a sudden",
    ),
    Complaint(
        "a cramp in the calf",
        (
            "tired muscles contract on their own, often at night",
            "sweating without drinking enough favours cramps",
        ),
        (
            "pull the toes towards the shin",
            "massage the muscle firmly",
            "stretch both calves before bed",
            "drink enough on hot days",
            "loosen tight bedcovers",
        ),
        (
            "one calf is swollen, warm and red",
            "cramps wake someone every night",
            "weakness stays afterwards",
        ),
        emergency="chest pain or breathlessness follows a swollen calf",
    ),
    Complaint(
        "bad breath",
        (
            "bacteria on the tongue and between teeth release smelly gases",
            "a dry mouth lets odours build up",
        ),
        (
            "clean between the teeth every evening",
            "brush the tongue gently",
            "chew sugar-free gum after meals",
            "drink water during the day",
            "replace the toothbrush every three months",
        ),
        (
            "gums bleed or teeth feel loose",
            "it persists despite careful cleaning",
            "a sour taste comes up after eating",
        ),
    ),
    Complaint(
        "a mouth ulcer",
        (
            "a bitten cheek or a sharp tooth edge often starts one",
            "stress and some foods can trigger small ulcers",
        ),
        (
            "avoid salty, sour and crunchy food",
            "rinse with salt water",
            "use a soft toothbrush",
            "drink cold liquids through a straw",
            "ask at the pharmacy for a protective gel",
        ),
        (
            "it has not healed after three weeks",
            "it keeps growing but does not hurt",
            "many appear along with fever",
        ),
    ),
    Complaint(
        "bloating after meals",
        (
            "swallowed air and gas from fermenting food stretch the belly",
            "eating in a hurry brings extra air into the stomach",
        ),
        (
            "chew slowly and put the fork down between bites",
            "cut back on fizzy drinks",
            "note which foods come before it",
            "walk for ten minutes after lunch",
            "raise fibre gradually rather than at once",
        ),
        (
            "weight falls without trying",
            "the belly stays swollen for weeks",
            "vomiting or bleeding occurs",
        ),
    ),
    Complaint(
        "motion sickness",
        (
            "eyes and inner ear report different movements to the brain",
            "reading in a moving car makes the mismatch stronger",
        ),
        (
            "look at the horizon",
            "sit in front or over the wing",
            "eat something light before leaving",
            "let in cool air",
            "take breaks on long drives",
        ),
        (
            "vomiting does not stop after arrival",
            "hearing loss comes with the dizziness",
            "it happens without any motion",
        ),
        emergency="an arm is weak or speech is slurred",
    ),
    Complaint(
        "knee soreness after running",
        (
            "a sudden jump in distance overloads the tendons round the kneecap",
            "worn shoes pass more shock on to the joint",
        ),
        (
            "shorten the runs for two weeks",
            "cycle or swim in the meantime",
            "strengthen hips and thighs",
            "replace old shoes",
            "warm up with brisk walking",
        ),
        ("the knee locks or gives way", "it swells visibly", "it also aches at rest during the night"),
    ),
    Complaint(
        "a blister on the heel",
        (
            "rubbing separates the upper layers of the skin and fluid fills the gap",
            "new shoes and damp socks increase friction",
        ),
        (
            "leave the roof of skin in place",
            "cover it with a padded plaster",
            "wear socks that wick moisture",
            "break in new shoes on short walks",
            "wash the spot with soap and water",
        ),
        (
            "red streaks spread from it",
            "pus collects",
            "diabetes or poor circulation is known",
        ),
    ),
    Complaint(
        "an itchy insect bite",
        (
            "the skin reacts to traces of insect saliva",
            "scratching releases more of the substances that cause itching",
        ),
        (
            "cool the spot with a wrapped ice pack",
            "dab on a soothing gel",
            "keep fingernails away from it",
            "wash it with soap",
            "wear long sleeves at dusk",
        ),
        (
            "pus comes out of the bite",
            "redness keeps spreading after two days",
            "a ring-shaped rash grows around it",
        ),
        emergency="lips or tongue swell",
    ),
    Complaint(
        "a mild fever",
        (
            "a raised temperature is the body's way of fighting an infection",
            "many viruses bring two or three warm days",
        ),
        (
            "rest and cancel hard exercise",
            "drink water, broth or diluted juice",
            "wear light layers",
            "measure the temperature twice a day",
            "keep the room comfortably cool",
        ),
        (
            "it climbs above 39.5 °C",
            "it lasts more than three days",
            "it returns after a trip to the tropics",
        ),
        emergency="confusion, a stiff neck or a rash that does not fade appears",
    ),
    Complaint(
        "nausea",
        (
            "the stomach is often upset by rich food, nerves or a passing virus",
            "an empty stomach can feel just as queasy as an overfull one",
        ),
        (
            "sip ginger or peppermint tea",
            "nibble dry crackers",
            "sit upright after eating",
            "avoid strong cooking smells",
            "take slow breaths by an open window",
        ),
        (
            "nothing stays down for a whole day",
            "a new medicine was started shortly before",
            "it goes on for over a week",
        ),
        emergency="strong chest or belly pain comes with it",
    ),
    Complaint(
        "a wrist ache from typing",
        (
            "small repeated movements irritate the tendons",
            "a bent wrist squeezes the nerve on its palm side",
        ),
        (
            "keep the wrist straight over the keyboard",
            "rest the hand for a minute every half hour",
            "let the forearm lie on the desk",
            "swap the mouse hand at times",
            "stretch the fingers gently",
        ),
        (
            "the thumb and first fingers go numb at night",
            "grip strength fades",
            "it hurts after several weeks of rest",
        ),
    ),
    Complaint(
        "daytime tiredness",
        (
            "short nights are behind most low-energy days",
            "little daylight and skipped meals drain energy too",
        ),
        (
            "aim for seven to nine hours of sleep",
            "go outside in the morning",
            "eat regular meals with protein",
            "limit naps to twenty minutes",
            "move a little every hour",
        ),
        (
            "it continues for a month despite good sleep",
            "palpitations are noticed",
            "weight changes without a reason",
        ),
        emergency="chest pain or fainting joins it",
    ),
    Complaint(
        "everyday stress",
        (
            "too many demands at once keep the body on alert",
            "a lack of pauses lets tension pile up",
        ),
        (
            "breathe out longer than in for two minutes",
            "split large tasks into small ones",
            "talk with someone trusted",
            "plan one free evening a week",
            "take a brisk walk after work",
        ),
        (
            "panic or hopelessness takes over",
            "work and friendships suffer for weeks",
            "sleep has been poor for a month",
        ),
        emergency="thoughts of self-harm appear",
    ),
    Complaint(
        "dandruff",
        (
            "a harmless yeast on the scalp makes skin cells shed faster",
            "cold months and rare washing make flakes more visible",
        ),
        (
            "wash with an anti-dandruff shampoo twice a week",
            "let the shampoo act for some minutes",
            "rinse thoroughly",
            "go easy on gel and spray",
            "massage instead of scratching",
        ),
        (
            "the scalp is sore or weeping",
            "hair comes out in patches",
            "scaly areas show on elbows or face",
        ),
    ),
    Complaint(
        "a blocked ear",
        (
            "wax pushed inwards by cotton buds can close the canal",
            "pressure changes during a flight may dull the hearing",
        ),
        (
            "soften the wax with a few drops of olive oil",
            "leave cotton buds in the drawer",
            "swallow or yawn during landing",
            "keep the ear dry for a few days",
            "ask a pharmacist about ear drops",
        ),
        (
            "the ear hurts or discharges",
            "hearing vanishes all of a sudden",
            "a spinning dizziness starts",
        ),
    ),
    Complaint(
        "a nosebleed",
        (
            "tiny vessels at the front of the nose tear easily in dry air",
            "rubbing or blowing the nose hard may reopen a small vessel",
        ),
        (
            "lean forward and pinch the soft part for ten minutes",
            "breathe through the mouth",
            "put a cool cloth on the neck",
            "avoid blowing the nose for some hours",
            "use a saline spray in heated rooms",
        ),
        (
            "it comes back several times a week",
            "blood thinners are being taken",
            "it follows a blow to the head",
        ),
        emergency="it does not stop within twenty minutes or follows a blow to the head",
    ),
    Complaint(
        "tooth sensitivity",
        (
            "worn enamel or receding gums expose the layer beneath",
            "brushing hard with a stiff brush wears the tooth neck",
        ),
        (
            "brush softly with small circles",
            "choose a toothpaste for sensitive teeth",
            "wait half an hour after sour food before brushing",
            "drink cold beverages through a straw",
            "ask the dentist about a night guard",
        ),
        (
            "one tooth throbs without a trigger",
            "the gum swells",
            "pain wakes someone at night",
        ),
    ),
    Complaint(
        "athlete's foot",
        (
            "a fungus grows well in warm, damp spaces between the toes",
            "shared showers and tight shoes make infection easier",
        ),
        (
            "dry carefully between the toes",
            "change socks every day",
            "wear sandals in changing rooms",
            "let shoes air for a day",
            "ask for an antifungal cream",
        ),
        (
            "it reaches the nails",
            "the skin splits and gets hot",
            "a month of treatment has changed nothing",
        ),
    ),
    Complaint(
        "a cold sore",
        (
            "a dormant virus wakes up after sun, stress or a cold",
            "the first tingling on the lip is already infectious",
        ),
        (
            "touch it as little as possible",
            "wash hands after applying cream",
            "keep cups and towels separate",
            "use a lip balm with sun protection",
            "skip kissing until it has crusted over",
        ),
        (
            "it comes near the eye",
            "it has not healed in two weeks",
            "the immune system is weakened",
        ),
    ),
    Complaint(
        "a runny nose",
        (
            "the nose makes extra fluid to wash out germs or pollen",
            "cold wind makes almost every nose run",
        ),
        (
            "use paper tissues once and throw them away",
            "protect the nostrils with a little ointment",
            "drink warm tea",
            "keep a distance from people at risk",
            "rinse gently with salt water",
        ),
        (
            "blood is mixed in again and again",
            "face pain and fever develop",
            "it continues for more than three weeks",
        ),
        emergency="clear fluid runs after a head injury",
    ),
)
