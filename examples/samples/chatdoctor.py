"""examples/data/chatdoctor: a patient's message and a doctor's reply, as a recipe's sources have them."""

from __future__ import annotations

from samples.complaints import COMPLAINTS, Complaint
from samples.dice import Dice
from samples.files import jsonl
from samples.prose import conditions, listed, paragraph, take_distinct

ROWS = 200
SEED = 2203
# The third header is lower case in the project that this sample stands for.
HEADERS = ("### Instruction:\n", "\n\n### Input:\n", "\n\n### output:\n")

INSTRUCTIONS = (
    "Act as a careful physician and reply to the patient's message.",
    "You are a family doctor. Give the patient friendly, general advice.",
    "Reply to the patient below and say when an examination is needed.",
    "As a doctor, answer the question that the patient describes.",
)
HELLO = ("Hello doctor", "Hi", "Good evening", "Dear doctor", "Good morning", "")
WHO = (
    "I am a 34-year-old teacher", "I am 52 and drive a bus", "I am a student of 21", "I am 67 and retired",
    "I am a nurse working shifts", "I work in an office and sit a lot", "I am 45 and cook in a canteen",
    "I am a gardener in my fifties", "I am 29 and run twice a week", "I care for two small children",
    "I am a carpenter of 38", "I am 60 and otherwise healthy", "I am writing for my husband, who is 58",
    "I am a violinist and travel often", "",
)  # fmt: skip
TROUBLE = (
    "for some days I have been dealing with {name}",
    "last week {name} started",
    "{name} is spoiling my evenings",
    "I cannot get rid of {name}",
    "since a trip abroad there has been {name}",
    "it began on Friday with {name}",
    "I seem to have {name}, for the second time this year",
    "out of nowhere I noticed {name}",
    "after moving house I got {name}",
)
TRIED = (
    "", "", "I already tried to {tip}", "a friend told me to {tip}, without much success",
    "so far I only managed to {tip}", "I read that one should {tip}",
)  # fmt: skip
ASK = (
    "What would you do?",
    "Do I need an appointment?",
    "Is it safe to wait a little?",
    "Should I stay at home?",
    "Could it be something serious?",
    "May I go on with sport?",
    "Which steps come next?",
    "What is the likely cause?",
    "Thank you for any advice.",
)
GREET = (
    "Hello and thank you for your message",
    "Thanks for the clear description",
    "Hello",
    "Good that you wrote",
    "I understand your concern",
    "",
    "",
)
EXPLAIN = (
    "often {why}", "from what you describe, it seems that {why}", "a likely explanation is that {why}",
    "as a rule, {why}", "keep in mind that {why}",
)  # fmt: skip
ADVISE = (
    "I would {tips}", "please {tips}", "for now, {tips}", "my advice is to {tips}",
    "until it settles, {tips}", "the most useful thing is to {tips}",
)  # fmt: skip
WARN = (
    "come to the practice {signs}", "you should be examined {signs}", "seek medical care {signs}",
    "see a doctor in person {signs}", "I would want to see you {signs}",
)  # fmt: skip
EMERGENCY = "call the emergency number without delay if {sign}"
CLOSE = (
    "",
    "",
    "Get well soon",
    "I hope this helps",
    "Take care",
    "Without an examination I can only advise in general",
    "All the best",
)


def make_files() -> dict[str, str]:
    dice = Dice(SEED)

    def make_turn(turn: int) -> str:
        return make_text(dice, COMPLAINTS[turn % len(COMPLAINTS)])

    texts = take_distinct(make_turn, ROWS, answer_mark=HEADERS[2])
    dice.shuffled(
        texts
    )  # another draw would be another order of rows, and the README's figures were measured in this one
    return {"chatdoctor/raw/chatdoctor.jsonl": jsonl(read_row(text) for text in dice.shuffled(texts))}


def make_text(dice: Dice, complaint: Complaint) -> str:
    fields = (dice.pick(INSTRUCTIONS), make_message(dice, complaint), make_reply(dice, complaint))
    return "".join(header + field for header, field in zip(HEADERS, fields, strict=True))


def read_row(text: str) -> dict[str, str]:
    """Take a templated text apart again into the fields it was made of."""
    before, output = text.split(HEADERS[2])
    instruction, given = before.removeprefix(HEADERS[0]).split(HEADERS[1])
    return {"instruction": instruction, "input": given, "output": output}


def make_message(dice: Dice, complaint: Complaint) -> str:
    trouble = dice.pick(TROUBLE).format(name=complaint.name)
    tried = dice.pick(TRIED).format(tip=dice.pick(complaint.tips))
    who = dice.pick(WHO) if dice.chance(0.7) else ""
    return paragraph(dice.pick(HELLO), who, trouble, tried, dice.pick(ASK))


def make_reply(dice: Dice, complaint: Complaint) -> str:
    why = dice.pick(EXPLAIN).format(why=dice.pick(complaint.why)) if dice.chance(0.6) else ""
    tips = listed(dice.draw(complaint.tips, dice.between(1, 4)))
    signs = conditions(dice.draw(complaint.signs, dice.between(1, 3)))
    advice, warning = dice.pick(ADVISE).format(tips=tips), dice.pick(WARN).format(signs=signs)
    emergency = EMERGENCY.format(sign=complaint.emergency) if complaint.emergency else ""
    return paragraph(dice.pick(GREET), why, advice, warning, emergency, dice.pick(CLOSE))
