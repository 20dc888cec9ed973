"""examples/data/healthcare-qa: two sources with different columns, and rows that preparing has to drop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from samples.dice import Dice
from samples.files import csv_table
from samples.health_topics import TOPICS, Topic
from samples.prose import conditions, listed, paragraph, sentence, take_distinct

QUESTION_ROWS, RATIONALE_ROWS = 145, 145
SEED = 3307
HEADERS = ("### Instruction:\n", "\n\n### Response:\n")
Pair = tuple[str, str]

# Rows that preparing has to drop: no question, no answer, or nothing but blanks.
EMPTY_QUESTIONS: tuple[Pair, ...] = (
    ("", "Rest, fluids and patience are enough for most colds."),
    ("How long does a common cold last?", ""),
    ("   ", "A doctor should look at a wound that does not heal."),
)
EMPTY_RATIONALES: tuple[Pair, ...] = (
    ("Is it wiser to take the stairs or the lift, and why?", ""),
    ("", "The stairs, because short efforts add up over a week."),
    ("Which is better for the eyes, a bright or a dark room?", "  "),
)

AUDIENCES = (
    "office workers", "older adults", "students", "shift workers", "parents of small children", "beginners",
    "people who travel a lot", "someone who lives alone", "people with little time", "a whole family",
)  # fmt: skip
ADVISERS = (
    "a friend",
    "my grandmother",
    "a sports coach",
    "an online video",
    "a colleague",
    "a magazine",
    "my cousin",
)
FALLBACK = (
    "ask a doctor if {signs}", "medical advice is needed if {signs}", "talk to a doctor if {signs}",
    "a check by a doctor makes sense if {signs}", "make an appointment if {signs}",
)  # fmt: skip


def make_files() -> dict[str, str]:
    dice = Dice(SEED)
    answers = take_texts(dice, make_answer_text, QUESTION_ROWS)
    rationales = take_texts(dice, make_rationale_text, RATIONALE_ROWS, beside=answers)
    return make_raw_files(dice, [split_text(text) for text in answers], [split_text(text) for text in rationales])


def take_texts(dice: Dice, make: Callable[[Dice, Topic], str], count: int, beside: Sequence[str] = ()) -> list[str]:
    def make_turn(turn: int) -> str:
        return make(dice, TOPICS[turn % len(TOPICS)])

    return take_distinct(make_turn, count, answer_mark=HEADERS[1], beside=beside)


def make_raw_files(dice: Dice, questions: list[Pair], rationales: list[Pair]) -> dict[str, str]:
    """Each source with its empty rows, repeated rows of its own, and one row of the other source."""
    dirty_questions = [*questions, *EMPTY_QUESTIONS, *dice.draw(questions, 3)]
    dirty_rationales = [*rationales, *EMPTY_RATIONALES, *dice.draw(rationales, 3), dice.pick(questions)]
    return {
        "healthcare-qa/raw/questions.csv": csv_table(("question", "answer"), dice.shuffled(dirty_questions)),
        "healthcare-qa/raw/rationales.csv": csv_table(
            ("question", "answer_rationale"), dice.shuffled(dirty_rationales)
        ),
    }


def split_text(text: str) -> Pair:
    question, answer = text.removeprefix(HEADERS[0]).split(HEADERS[1])
    return question, answer


def join_text(question: str, answer: str) -> str:
    return f"{HEADERS[0]}{sentence(question)}{HEADERS[1]}{answer}"


def make_answer_text(dice: Dice, topic: Topic) -> str:
    make = dice.pick((answer_why, answer_how, answer_how, answer_amount, answer_slip, answer_when))
    return make(dice, topic)


def answer_why(dice: Dice, topic: Topic) -> str:
    form = dice.pick(
        ("Why is {topic} worth the effort for {people}?", "What is the benefit of {topic} for {people}?",
         "{people} often ignore advice on {topic}. What speaks for it?", "What does {topic} do for the body?")
    )  # fmt: skip
    steps = f"to begin, {listed(dice.draw(topic.steps, dice.between(1, 2)))}" if dice.chance(0.6) else ""
    whys = dice.draw(topic.why, dice.between(1, 2))
    return ask(dice, topic, form, [*whys, steps, fall_back(dice, topic, 1)])


def answer_how(dice: Dice, topic: Topic) -> str:
    form = dice.pick(
        ("How can {people} start with {topic}?", "Which small steps help {people} with {topic}?",
         "I need practical tips on {topic} for {people}.", "What is an easy plan for {topic}?",
         "Explain {topic} to {people} in a few lines.")
    )  # fmt: skip
    lead = dice.pick(("a good plan is to", "one can", "start small:", "it works to"))
    steps = f"{lead} {listed(dice.draw(topic.steps, dice.between(2, 4)))}"
    extra = dice.pick((topic.amount, dice.pick(topic.why), ""))
    return ask(dice, topic, form, [steps, extra, fall_back(dice, topic, dice.between(1, 2))])


def answer_amount(dice: Dice, topic: Topic) -> str:
    form = dice.pick(
        ("When it comes to {topic}, how much is right for {people}?", "Is there a rule of thumb for {topic}?",
         "What amount or rhythm is advised for {topic}, thinking of {people}?")
    )  # fmt: skip
    why = f"the reason is that {dice.pick(topic.why)}" if dice.chance(0.5) else ""
    return ask(dice, topic, form, [topic.amount, why, fall_back(dice, topic, dice.between(0, 2))])


def answer_slip(dice: Dice, topic: Topic) -> str:
    form = dice.pick(
        ("Which mistakes do {people} make with {topic}?", "What should {people} avoid in matters of {topic}?",
         "What goes wrong most often with {topic}?")
    )  # fmt: skip
    slips = f"many {listed(dice.draw(topic.slips, dice.between(1, 2)))}"
    better = f"it is better to {listed(dice.draw(topic.steps, dice.between(1, 3)))}"
    return ask(dice, topic, form, [slips, better, fall_back(dice, topic, dice.between(0, 1))])


def answer_when(dice: Dice, topic: Topic) -> str:
    form = dice.pick(
        ("Who should get medical advice about {topic}?", "Where are the limits of self-help in {topic}?",
         "Does {topic} ever call for a doctor? I ask for {people}.")
    )  # fmt: skip
    rest = dice.pick((topic.amount, f"otherwise, {dice.pick(topic.steps)}", dice.pick(topic.why)))
    return ask(dice, topic, form, [fall_back(dice, topic, 2), rest])


def make_rationale_text(dice: Dice, topic: Topic) -> str:
    """Which of two habits is wiser, and the reasons for it."""
    step, slip, why = dice.pick(topic.steps), dice.pick(topic.slips), dice.pick(topic.why)
    adviser, person = dice.draw(ADVISERS, 2)
    question = dice.pick(
        (f"Is it wiser to {step} or to {slip}, and why?",
         f"{adviser} says one may {slip}, {person} says one should {step}. Who is right about {topic.name}?",
         f"For {topic.name}, which is the better choice: (a) {slip} or (b) {step}?",
         f"On the subject of {topic.name}, would you rather {step} or {slip}? Give the reason.")
    )  # fmt: skip
    verdict = dice.pick(
        (
            "the better choice is to {0}",
            "I would {0}",
            "{0}; that is the wiser way",
            "clearly, one should {0}",
        )
    )
    reason = dice.pick(("the reason: {0}", "this is because {0}", "remember that {0}", "after all, {0}"))
    against = dice.pick(
        ("to {0} works against that", "people who {0} lose this benefit", "those who {0} risk a setback", "")
    )
    more = f"in addition, {dice.pick(topic.steps)}" if dice.chance(0.3) else ""
    parts = [
        verdict.format(step),
        reason.format(why),
        against.format(slip),
        "" if more.endswith(step) else more,
    ]
    return join_text(question, paragraph(*parts, fall_back(dice, topic, dice.between(0, 2))))


def ask(dice: Dice, topic: Topic, form: str, parts: list[str]) -> str:
    return join_text(form.format(topic=topic.name, people=dice.pick(AUDIENCES)), paragraph(*parts))


def fall_back(dice: Dice, topic: Topic, count: int) -> str:
    if not count:
        return "when in doubt, ask a doctor"
    signs = conditions(dice.draw(topic.ask, count))
    return dice.pick(FALLBACK).format(signs=signs.removeprefix("if "))
