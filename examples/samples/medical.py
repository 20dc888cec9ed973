"""examples/data/medical: a question and a general answer in one text."""

from __future__ import annotations

from samples.complaints import COMPLAINTS, Complaint
from samples.dice import Dice
from samples.files import text_jsonl
from samples.prose import conditions, listed, paragraph, sentence, take_distinct

TRAIN_ROWS, EVAL_ROWS = 240, 40
SEED = 1101
ANSWER_MARK = "\n### Assistant: "

WHOSE = (
    "I have",
    "I keep getting",
    "I woke up with",
    "I am travelling and have",
    "My father has",
    "My sister has",
    "My flatmate complains of",
    "My teenage son has",
    "A colleague of mine has",
    "My neighbour is bothered by",
    "My partner has",
)
SINCE = (
    "since yesterday",
    "for two days now",
    "since the weekend",
    "on and off this week",
    "after a long day at work",
    "again this month",
    "since this morning",
    "every few weeks",
    "after a short night",
)

HOME_QUESTIONS = (
    "What can be done at home?",
    "Which simple steps would you suggest?",
    "Is there anything useful to try before seeing anybody?",
    "What would make the next days easier?",
    "How do I handle this sensibly?",
    "I would rather not take medicine at once. What else is there?",
)
CAUSE_QUESTIONS = (
    "What usually causes {name}?",
    "Why do people get {name}?",
    "Please explain in plain words where {name} comes from.",
    "Is there a simple reason for {name}?",
    "What happens in the body when somebody has {name}?",
)
WORRY_QUESTIONS = (
    "When is {name} a reason to see a doctor?",
    "How do I know that {name} is not something serious?",
    "Which warning signs matter with {name}?",
    "{whose} {name} {since}. Should we be worried?",
    "Can {name} wait until Monday, or is that risky?",
)
HABIT_QUESTIONS = (
    "How can I keep {name} from coming back?",
    "Which habits make {name} less likely?",
    "Name a few everyday measures against {name}.",
    "Give me a short checklist for {name}.",
)

COMFORT = (
    "",
    "",
    "that sounds unpleasant, but it is rarely dangerous",
    "this is very common",
    "there is usually no need to worry",
    "good that you ask early",
    "in most cases it passes by itself",
    "a calm start is best",
    "I am sorry that the week began like this",
)
ADVISE = (
    "it helps to {tips}",
    "a good start is to {tips}",
    "you could {tips}",
    "many people find relief when they {tips}",
    "for the next days, {tips}",
    "simple measures work well: {tips}",
    "try to {tips}",
)
WARN = (
    "see a doctor {signs}", "please make an appointment {signs}", "a doctor should have a look {signs}",
    "do not wait and get medical advice {signs}", "medical help is needed {signs}",
    "call your practice {signs}", "have it examined {signs}",
)  # fmt: skip
EMERGENCY = (
    "call the emergency number at once if {sign}",
    "it is an emergency if {sign}",
    "get help immediately if {sign}",
)
LIMITS = (
    "",
    "",
    "",
    "this is general information and no diagnosis",
    "a pharmacist can help to choose a remedy",
    "if you are pregnant or take regular medicine, ask first",
    "trust your own judgement when something feels wrong",
)


def make_files() -> dict[str, str]:
    dice = Dice(SEED)

    def make_turn(turn: int) -> str:
        return make_text(dice, COMPLAINTS[turn % len(COMPLAINTS)])

    texts = take_distinct(make_turn, TRAIN_ROWS + EVAL_ROWS, answer_mark=ANSWER_MARK)
    mixed = dice.shuffled(texts)
    return {
        "medical/train.jsonl": text_jsonl(mixed[:TRAIN_ROWS]),
        "medical/eval.jsonl": text_jsonl(mixed[TRAIN_ROWS:]),
    }


def make_text(dice: Dice, complaint: Complaint) -> str:
    make_turns = dice.pick((make_home_turns, make_home_turns, make_cause_turns, make_worry_turns, make_habit_turns))
    question, answer = make_turns(dice, complaint)
    return f"### Human: {question}{ANSWER_MARK}{answer}"


def make_home_turns(dice: Dice, complaint: Complaint) -> tuple[str, str]:
    question = paragraph(f"{dice.pick(WHOSE)} {complaint.name} {dice.pick(SINCE)}", dice.pick(HOME_QUESTIONS))
    why = dice.draw(complaint.why, dice.between(0, 2))
    tips = advise(dice, complaint, dice.between(1, 5))
    answer = paragraph(dice.pick(COMFORT), *why, tips, warn(dice, complaint, dice.between(1, 2)), dice.pick(LIMITS))
    return question, answer


def make_cause_turns(dice: Dice, complaint: Complaint) -> tuple[str, str]:
    question = dice.pick(CAUSE_QUESTIONS).format(name=complaint.name)
    why = dice.draw(complaint.why, dice.between(1, 2))
    tips = advise(dice, complaint, dice.between(1, 3)) if dice.chance(0.7) else ""
    return question, paragraph(*why, tips, warn(dice, complaint, 1), dice.pick(LIMITS))


def make_worry_turns(dice: Dice, complaint: Complaint) -> tuple[str, str]:
    form = dice.pick(WORRY_QUESTIONS)
    question = form.format(name=complaint.name, whose=dice.pick(WHOSE), since=dice.pick(SINCE))
    signs = warn(dice, complaint, dice.between(1, 3))
    tips = advise(dice, complaint, dice.between(1, 2)) if dice.chance(0.6) else ""
    why = dice.pick(complaint.why) if dice.chance(0.4) else ""
    return paragraph(question), paragraph(dice.pick(COMFORT), why, signs, tips, dice.pick(LIMITS))


def make_habit_turns(dice: Dice, complaint: Complaint) -> tuple[str, str]:
    question = dice.pick(HABIT_QUESTIONS).format(name=complaint.name)
    tips = dice.draw(complaint.tips, dice.between(2, 5))
    return question, paragraph(*tips, warn(dice, complaint, dice.between(1, 2)))


def advise(dice: Dice, complaint: Complaint, count: int) -> str:
    tips = dice.draw(complaint.tips, count)
    return dice.pick(ADVISE).format(tips=listed(tips))


def warn(dice: Dice, complaint: Complaint, count: int) -> str:
    routine = sentence(dice.pick(WARN).format(signs=conditions(dice.draw(complaint.signs, count))))
    if not complaint.emergency:
        return routine
    return f"{routine} {sentence(dice.pick(EMERGENCY).format(sign=complaint.emergency))}"
