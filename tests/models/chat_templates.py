"""Chat templates that render the documented strings of well-known model families, written for these tests, and small
byte-level tokenizers that know their special tokens."""

from functools import lru_cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

ALTERNATE = (
    "{% for m in chat %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% endfor "
    "%}"
)
SPLIT_SYSTEM = (
    "{% if messages and messages[0]['role'] == 'system' %}{% set chat = messages[1:] %}{% set system = "
    "messages[0]['content'] %}"
    "{% else %}{% set chat = messages %}{% set system = '' %}{% endif %}"
)

TEMPLATES = {
    "llama2": (
        SPLIT_SYSTEM + ALTERNATE + "{% for m in chat %}"
        "{% if loop.first and system %}{% set content = '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' + m['content'] %}"
        "{% else %}{% set content = m['content'] %}{% endif %}"
        "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content | trim + ' [/INST]' }}"
        "{% else %}{{ ' ' + content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% "
        "endif %}"
    ),
    "llama31": (
        "{{ bos_token }}{{ '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + strftime_now('%d %b %Y') }}"
        "{% if messages and messages[0]['role'] == 'system' %}{{ '\\n\\n' + messages[0]['content'] }}{% set messages "
        "= messages[1:] %}"
        "{% endif %}{{ '<|eot_id|>' }}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% "
        "endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% set chat = messages %}" + ALTERNATE + "{% for m in messages %}"
        "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
    ),
    "qwen": (
        "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m['role'] == 'user' %}{% set ns.last = "
        "loop.index0 %}{% endif %}"
        "{% endfor %}{% for m in messages %}{% set content = m['content'] %}"
        "{% if m['role'] == 'assistant' and '</think>' in content and loop.index0 < ns.last %}"
        "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + '\\n' + content + '<|im_end|>' + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages and messages[0]['role'] == 'system' %}{{ raise_exception('System role not "
        "supported') }}{% endif %}"
        "{% set chat = messages %}" + ALTERNATE + "{% for m in messages %}"
        "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
        "{{ '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
    "zephyr": (
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + eos_token + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
    ),
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% "
        "endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "spag": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '\\n### Response: ' + m['content'] "
        "+ eos_token }}"
        "{% else %}{{ '\\n### ' + ('Instruction' if m['role'] == 'system' else 'Input') + ': ' + m['content'] }}{% "
        "endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\\n### Response:' }}{% endif %}"
    ),
    "last_system": (  # Mistral's later templates: the system text stands before the last user message, so history moves
        SPLIT_SYSTEM + "{{ bos_token }}{% for m in chat %}{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + (system + '\\n\\n' if loop.last and system else '') + m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    ),
    "thinker": (  # Qwen3: thoughts of earlier turns are dropped, the last reply has at least an empty one
        "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m['role'] == 'user' %}"
        "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}{% set content = m['content'] %}{% set thought = '' %}"
        "{% if m['role'] == 'assistant' %}{% if m.reasoning_content is string %}{% set thought = m.reasoning_content %}"
        "{% elif '</think>' in content %}"
        "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
        "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' and loop.index0 > ns.last %}"
        "{{ '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}"
        "{% else %}{{ content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
        "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
        "{% endif %}"
    ),
    "opener": (  # DeepSeek-R1: the prompt itself opens the thought, earlier thoughts are cut away
        "{{ bos_token }}{% for m in messages %}{% set content = m['content'] %}"
        "{% if m['role'] == 'assistant' and '</think>' in content %}{% set content = content.split('</think>')[-1] %}"
        "{% endif %}{{ '<|' + m['role'] + '|>' + content }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"
    ),
    "channel": (  # gpt-oss: thoughts and speech have channels, whose marks are special tokens
        "{% for m in messages %}{{ '<|start|>' + m['role'] }}{% if m['role'] == 'assistant' %}"
        "{% if m.thinking and loop.last %}"
        "{{ '<|channel|>analysis<|message|>' + m.thinking + '<|end|><|start|>assistant' }}{% endif %}"
        "{{ '<|channel|>final<|message|>' + m['content'] }}"
        "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
        "{% else %}{{ '<|message|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
    ),
    "endless": (  # Solar: nothing ends a reply
        "{% for m in messages %}{{ '### ' + m['role'] + ':\\n' + m['content'] + '\\n\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### assistant:\\n' }}{% endif %}"
    ),
    "prefixing": (  # Gemma 3: the system text stands before the first message, and is lost without one
        SPLIT_SYSTEM + ALTERNATE + "{{ bos_token }}{% for m in chat %}"
        "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
        "{{ '<start_of_turn>' + role + '\\n' + (system + '\\n\\n' if loop.first and system else '') }}"
        "{{ m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
    ),
    "parts": (  # a template for images, which prints contents that are lists alone
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['content'] is not string %}"
        "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
}
THINKING = ("thinker", "opener", "channel")
ODD = ("last_system", "endless", "prefixing", "parts", *THINKING)
FAMILIES = tuple(name for name in TEMPLATES if name not in ODD)
ENDS = {
    "llama3": "<|eot_id|>",
    "llama31": "<|eot_id|>",
    "qwen": "<|im_end|>",
    "chatml": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "prefixing": "<end_of_turn>",
    "thinker": "<|im_end|>",
    "channel": "<|return|>",
}
SPECIAL = [
    "<unk>",
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
]
SPECIAL += ["<start_of_turn>", "<end_of_turn>", "<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>"]
TEXT = [
    "I take three books and you get the hat; is that fair?",
    "Deal: books=1 hats=2 balls=0.",
    "<think>He wants the ball.</think>",
]


@lru_cache
def core() -> Tokenizer:
    """A byte-level BPE tokenizer."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        show_progress=False,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(TEXT * 3, trainer)
    core.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    return core


def tokenizer(family: str, **conduct) -> PreTrainedTokenizerFast:
    """The tokenizer with the family's template, used as `conduct` says (see `parley.models.thoughts`)."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=core(), bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=TEMPLATES[family],
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    made.init_kwargs["parley"] = conduct
    return made
