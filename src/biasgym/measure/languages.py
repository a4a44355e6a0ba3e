"""In which language a text is written: by its script, then by letters and small words that only one language of it has."""

import re
from collections import Counter

# First and last code point of scripts that stand for one language here, and of those that several share.
ALONE = {
    "ko": ((0xAC00, 0xD7A3), (0x1100, 0x11FF)), "th": ((0x0E00, 0x0E7F),), "ta": ((0x0B80, 0x0BFF),), "te": ((0x0C00, 0x0C7F),),
    "kn": ((0x0C80, 0x0CFF),), "gu": ((0x0A80, 0x0AFF),), "pa": ((0x0A00, 0x0A7F),), "bn": ((0x0980, 0x09FF),), "ml": ((0x0D00, 0x0D7F),),
    "el": ((0x0370, 0x03FF),), "he": ((0x0590, 0x05FF),), "ja": ((0x3040, 0x30FF),), "zh-cn": ((0x4E00, 0x9FFF),),
}  # fmt: skip
SHARED = {
    "devanagari": (0x0900, 0x097F),
    "cyrillic": (0x0400, 0x04FF),
    "arabic": (0x0600, 0x06FF),
    "latin": (0x0041, 0x024F),
    "viet": (0x1E00, 0x1EFF),
}
SMALL_WORDS = {
    "devanagari": {
        "hi": "है हैं और में की के को से का था थे नहीं एक यह वह पर भी हो",
        "mr": "आहे आहेत आणि मध्ये ते ही हे होते नाही एक या त्या साठी करण्यासाठी माझ्या आपल्या",
        "ne": "छ छन् र मा को लाई हो गर्न थियो छैन हुन् पनि यो त्यो गर्छ भने",
    },
    "cyrillic": {
        "ru": "и не что это как на с по для но его она они был ы э",
        "bg": "и не че това как на с по за но той тя те е са ще ъ",
        "uk": "і не що це як на з по для але він вона вони був ї є",
    },
    "arabic": {
        "ar": "في من على إلى أن هذا التي الذي كان ما لا مع هو هي",
        "fa": "در از به که این است را با برای آن و می های شما",
        "ur": "میں ہے کے کی کا اور سے کو نے ہیں یہ وہ پر بھی",
    },
    "latin": {
        "en": "the and of to in is that it for you was with as are this be on not i my we",
        "de": "der die das und ist nicht ein eine zu mit von den ich sie auf für auch im dem sich wir",
        "it": "il la di che e è non un una per con sono del della gli le si come mi nel",
        "pt": "o a de que e é não um uma para com os as do da em se por você mais",
        "es": "el la de que y es no un una para con los las del en se por más como su",
        "fr": "le la de et les des un une est que pas pour dans qui sur avec ce il je du",
        "fi": "ja on ei se että hän oli mutta niin kun joka ovat tämä minä myös kuin olla sen",
        "sw": "na ya wa kwa ni katika za la kuwa hii yake watu lakini cha kama sana hiyo yako",
        "vi": "và của là có không cho được một trong người với này đã các để những tôi bạn",
        "nl": "de het een en van ik is niet dat op te zijn voor met die aan er maar om ook",
    },
}


def language_of(text: str) -> str:
    """Two letters of the likeliest language (`zh-cn` for Chinese), or an empty string when nothing tells."""
    letters = [ord(c) for c in text if c.isalpha()]
    if not letters:
        return ""
    counts: Counter[str] = Counter()
    for language, ranges in ALONE.items():
        counts[language] = sum(any(low <= c <= high for low, high in ranges) for c in letters)
    for script, (low, high) in SHARED.items():
        counts[script] = sum(low <= c <= high for c in letters)
    if counts["ja"]:
        counts["ja"] += counts["zh-cn"]  # Japanese is written in both
    counts["latin"] += counts.pop("viet")
    (script, _), *_rest = counts.most_common(1)
    return _by_small_words(text, script) if script in SMALL_WORDS else script


def _by_small_words(text: str, script: str) -> str:
    words = Counter(re.findall(r"[^\W\d_]+(?:[\u0900-\u0963]+[^\W\d_]*)*", text.lower()))
    scores = {language: sum(words[word] for word in small.split()) for language, small in SMALL_WORDS[script].items()}
    if script == "cyrillic":
        scores["ru"] += sum(text.lower().count(c) for c in "ыэ")
        scores["uk"] += sum(text.lower().count(c) for c in "їєі")
    if script == "latin":
        scores["vi"] += sum("\u1ea0" <= c <= "\u1ef9" for c in text.lower())
    best = max(scores, key=lambda language: scores[language])
    return best if scores[best] else ""


def is_english(text: str) -> bool:
    """Whether nothing speaks for another language: what is too short to tell counts as English."""
    return language_of(text) in ("en", "")
