"""Tasks by keywords, which the classifier has to beat by far, or need not be there: expressions, each with its weight.

Only the gates use it. It reads both ends of a prompt; such expressions take up to two milliseconds.
"""

import re

from mcp_gateway.core.prompt_tasks import TASKS, PromptTask

_HEAD_CHARS, _TAIL_CHARS = 1200, 500
_LANGUAGES = (
    r"(?:french|german|spanish|italian|portuguese|dutch|russian|chinese|mandarin|japanese|korean|arabic|hindi|turkish|polish"
    r"|swedish|greek|vietnamese|thai|czech|finnish|english|hebrew|latin|ukrainian|indonesian|danish|norwegian|romanian"
    r"|hungarian|persian|urdu|bengali|tamil|swahili|catalan)"
)
_RULES: tuple[tuple[PromptTask, int, str], ...] = (
    ("code", 4, r"```|^\s*(?:def |class |import |from \w+ import|#include|public |function |const |let |var |SELECT )"),
    (
        "code",
        3,
        (
            r"\b(?:python|javascript|typescript|java|c\+\+|c#|golang|rust|kotlin|swift|php|ruby|perl|scala|"
            r"haskell|sql|bash|shell script|powershell|html|css|react|django|flask|regex|regular expression|"
            r"dockerfile|kubernetes|pandas|numpy|pytorch|latex|excel formula|api endpoint)\b"
        ),
    ),
    (
        "code",
        2,
        (
            r"\b(?:code|script|function|program|algorithm|compile|debug|bug|stack ?trace|exception|unit tests?|"
            r"refactor|snippet|query|class|method|plugin|library|package|server|linux|git|json|xml|yaml)\b"
        ),
    ),
    (
        "code",
        3,
        (
            r"\b(?:write|create|implement|fix|debug|develop|generate|give)\b.{0,40}\b(?:code|function|script|"
            r"program|class|query|app|regex|plugin|component|endpoint)\b"
        ),
    ),
    (
        "math",
        4,
        (
            r"\\frac|\\sqrt|\$[^$\n]{1,80}\$|\b(?:integral|derivative|equation|polynomial|probability|triangle|"
            r"perimeter|theorem|modulo|eigenvalue|logarithm)\b"
        ),
    ),
    (
        "math",
        3,
        (
            r"\b(?:solve|calculate|compute|evaluate|simplify|prove)\b.{0,60}[\d=+*/^]|\bhow (?:many|much)"
            r"\b.{0,160}\?|\d\s*[-+*/^=×÷]\s*\d"
        ),
    ),
    ("math", 2, r"\b(?:percent|average|total|sum|remaining|dollars|per hour|ratio|square root|product of)\b|%|\$\d"),
    (
        "reasoning",
        3,
        (
            r"\b(?:puzzle|riddle|logic(?:al|ally)?|deduc\w+|clues?|premise|syllogism|what if|step[- ]by[- ]step|"
            r"if and only if|true or false|which of the following (?:is|can)|conclusion|therefore)\b"
        ),
    ),
    (
        "reasoning",
        2,
        (
            r"\b(?:options?:|taller|older|left of|right of|next to|immediately|each (?:person|of them)|swap\w*|"
            r"facing|overtake\w*|analogy|odd one out|brothers?|sisters?)\b"
        ),
    ),
    (
        "question_answering",
        2,
        (
            r"^(?:what|who|whom|whose|when|where|why|which|how|is|are|was|were|do|does|did|can|could|should|will|"
            r"would|has|have)\b"
        ),
    ),
    (
        "question_answering",
        2,
        (
            r"\b(?:explain|what is|what are|define|definition|meaning of|tell me about|describe how|how (?:do|"
            r"does|can|to)|why (?:is|are|do|does)|who (?:is|was)|difference between)\b"
        ),
    ),
    (
        "question_answering",
        1,
        r"\?\s*$|^(?:list|name|describe|suggest|recommend)\b|\banswer the (?:following )?question",
    ),
    (
        "summarization",
        6,
        (
            r"\b(?:summari[sz]\w+|summary|tl;?dr|tldr|key (?:points|takeaways)|main (?:points|takeaways)|"
            r"in a nutshell|condense|highlights?|recap|abstract of|executive summary|sum up|brief overview)\b"
        ),
    ),
    (
        "translation",
        7,
        (
            r"\btranslat\w+|\bin(?:to)? "
            + _LANGUAGES
            + r"\b|\b(?:from|to) "
            + _LANGUAGES
            + r" to\b|\bhow (?:do|would|can) (?:you|i) say\b|"
            + r"\b"
            + _LANGUAGES
            + r" (?:version|translation|word for)\b|\bsaid in\b"
        ),
    ),
    (
        "extraction",
        5,
        (
            r"\b(?:extract|pull out|named? entit\w+|keywords?|identify (?:all|the|any)|find all|list all|"
            r"mentioned in|parse the|locate the|spans?|fill in the fields|retrieve the)\b"
        ),
    ),
    (
        "classification",
        5,
        (
            r"\b(?:classif\w+|categori[sz]\w+|categor(?:y|ies)|sentiment|label|positive or negative|spam|toxic|"
            r"offensive|hate speech|intent|topic of|same meaning|mean the same|duplicates?|paraphrases of|"
            r"rate the|whether the|determine (?:if|whether)|decide (?:if|whether)|tell (?:me )?(?:if|whether)|"
            r"which (?:topic|category|genre)|positive,? negative)\b"
        ),
    ),
    (
        "creative_writing",
        5,
        (
            r"\b(?:poem|story|stories|song|lyrics|haiku|rap|novel|fiction|fanfic\w*|screenplay|dialogue between|"
            r"joke|limerick|essay|blog post|article about|speech|cover letter|slogan|tagline|caption|tweet|"
            r"advertisement|press release|product description|script for|plot|backstory|sonnet|write an? (?:email|"
            r"letter|article|review|report|description|paragraph))\b"
        ),
    ),
    (
        "creative_writing",
        3,
        (
            r"^(?:please |can you |could you )?(?:write|compose|draft|create|generate|brainstorm|come up with|"
            r"design|craft|invent|make up|make a|plan)\b"
        ),
    ),
    (
        "creative_writing",
        2,
        (
            r"\b(?:creative|imagine|in the style of|ideas for|outline|recipe|itinerary|characters?|persuasive|"
            r"engaging|tone)\b"
        ),
    ),
    (
        "rewriting",
        6,
        (
            r"\b(?:rewrite|re-write|rephrase|paraphrase|proofread|polish|reword|correct (?:the|any|this)"
            r"? ?(?:grammar|spelling|punctuation|errors?)|fix (?:the )?(?:grammar|punctuation|spelling)|"
            r"simplify (?:the|this)|make (?:it|this) (?:sound|more|less|shorter)|grammatical(?:ly)?|edit (?:the|"
            r"this)|improve (?:the|this) (?:text|paragraph|sentence|writing)|punctuation|proper case|shorten|"
            r"in your own words)\b"
        ),
    ),
    (
        "conversation",
        6,
        (
            r"^\W*(?:hi|hello|hey|yo|thanks?|thank you|bye|goodbye|good (?:morning|night|evening)|how are you|"
            r"what'?s up|ok(?:ay)?|lol|sup|nice to meet)\b.{0,60}$"
        ),
    ),
    (
        "conversation",
        3,
        (
            r"\b(?:are you (?:a|an|real|human)|your name|who (?:made|are) you|do you (?:like|have|think|feel|"
            r"believe|know|enjoy)|your (?:favou?rite|hobbies|opinion)|i (?:feel|am) (?:sad|lonely|bored|nervous|"
            r"tired)|act as|pretend (?:you|to be)|you are an? |role ?play|let'?s (?:play|chat|talk))\b"
        ),
    ),
    (
        "conversation",
        2,
        (
            r"\b(?:i love|i like|me too|haha|wow|yeah|that is (?:cool|crazy|interesting)|i think|i heard|"
            r"did you know)\b"
        ),
    ),
    (
        "analysis",
        4,
        (
            r"\b(?:analy[sz]e|analysis|compare|contrast|evaluate|assess\w*|critique|critically|pros and cons|"
            r"advantages and disadvantages|trade-?offs?|swot|strengths and weaknesses|implications|"
            r"recommend(?:ation)? for|root cause|interpret|insights?|discuss|examine|review this)\b"
        ),
    ),
)

_COMPILED = [(task, weight, re.compile(pattern, re.IGNORECASE)) for task, weight, pattern in _RULES]
_SHORT_CHARS = 40
_MANY_DIGITS, _MANY_SIGNS = 0.08, 0.05


def task_by_rules(text: str) -> int:
    read = text if len(text) <= _HEAD_CHARS + _TAIL_CHARS else f"{text[:_HEAD_CHARS]}\n{text[-_TAIL_CHARS:]}"
    scores: dict[PromptTask, float] = dict.fromkeys(TASKS, 0.0)
    for task, weight, pattern in _COMPILED:
        if pattern.search(read):
            scores[task] += weight
    if len(text) < _SHORT_CHARS and not any(scores.values()):
        scores["conversation"] += 1.5
    scores["math"] += 1.5 * (_share(read, "0123456789") > _MANY_DIGITS)
    scores["code"] += 3 * (_share(read, "{}();=<>[]") > _MANY_SIGNS)
    best = max(TASKS, key=scores.__getitem__)
    return TASKS.index(best if scores[best] > 0 else "question_answering")


def _share(text: str, characters: str) -> float:
    return sum(map(text.count, characters)) / (len(text) or 1)
