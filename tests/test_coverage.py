"""Of the matrices of models that people use, nothing is passed over without a word."""

import inspect

import pytest
import torch
import torchvision
from torch import nn

from initguide import initialize_

transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # what other projects' models say
]

SMALL = {
    **dict.fromkeys(["hidden_size", "n_embd", "d_model", "embedding_size"], 32),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers"], 2),
    **dict.fromkeys(["encoder_layers", "decoder_layers"], 2),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads"], 4),
    **dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads"], 4),
    **dict.fromkeys(["intermediate_size", "ffn_dim", "n_inner", "d_ff"], 48),
    **dict.fromkeys(["encoder_ffn_dim", "decoder_ffn_dim"], 48),
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts"], 4),
    **{"num_key_value_heads": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    **{"vocab_size": 64, "max_position_embeddings": 64, "n_positions": 64},
    **{"head_dim": 8, "d_kv": 8, "image_size": 32, "patch_size": 8},
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
ARCHITECTURES = [
    "apertus", "arcee", "aria_text", "bart", "bert", "bert-generation",
    "big_bird", "biogpt", "bitnet", "blenderbot", "bloom", "camembert",
    "codegen", "cohere", "cohere2", "cohere2_moe", "ctrl", "electra",
    "ernie", "ernie4_5", "ernie4_5_moe", "exaone4", "falcon", "falcon_mamba",
    "gemma", "gemma2", "glm", "glm4", "glm4_moe", "gpt2",
    "gpt_bigcode", "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe",
    "helium", "jamba", "jetmoe", "lfm2", "llama", "mamba",
    "marian", "mbart", "megatron-bert", "minimax", "ministral", "mistral",
    "mixtral", "modernbert-decoder", "mpt", "nemotron", "olmo", "olmo2",
    "olmoe", "openai-gpt", "opt", "pegasus", "persimmon", "phi",
    "phi3", "qwen2", "qwen3", "qwen3_moe", "recurrent_gemma", "rembert",
    "roberta", "roformer", "rwkv", "smollm3", "stablelm", "starcoder2",
    "xglm", "xlm-roberta", "xlnet",
]  # fmt: skip
# What no rule of ours fills, apart from embeddings: parts that are no linear map, or whose layout
# only their authors know.
RARE = {"jetmoe": 0.83, "jamba": 0.45, "ernie4_5_moe": 0.02, "recurrent_gemma": 0.09}


def build(name):
    make = transformers.models.auto.configuration_auto.CONFIG_MAPPING[name]
    known = {
        *inspect.signature(make.__init__).parameters,
        *getattr(make, "__dataclass_fields__", ()),
    }
    config = make(**{key: value for key, value in SMALL.items() if key in known})
    return transformers.AutoModelForCausalLM.from_config(config)


def shares(done):
    """Return the share of the matrices' entries by what was done with them."""
    table = done.frame().reset_index()
    table["entries"] = [torch.Size(shape).numel() for shape in table["shape"]]
    table = table[table["shape"].map(len) > 1]
    table["done"] = table["why"].str.partition(":")[0].where(table["rule"] == "", "filled")
    return table.groupby("done")["entries"].sum() / table["entries"].sum()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_matrix_of_a_language_model_is_filled_or_listed(name):
    model = build(name)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    done = initialize_(model, "xavier_normal", generator=torch.Generator().manual_seed(0))
    share = shares(done)
    assert share.sum() == pytest.approx(1)
    known = share.drop("no known layer", errors="ignore").sum()
    assert known >= 0.9 or known >= 1 - RARE.get(name, 0)
    unchanged = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
    assert set(done.left_alone) <= unchanged  # what it says was left alone was


VISION = ["alexnet", "vgg11", "resnet18", "densenet121", "mobilenet_v3_small", "efficientnet_b0",
          "regnet_y_400mf", "shufflenet_v2_x0_5", "squeezenet1_0", "convnext_tiny", "vit_b_16",
          "swin_t", "mnasnet0_5", "googlenet"]  # fmt: skip


@pytest.mark.parametrize("name", VISION)
def test_every_matrix_of_a_vision_model_is_filled(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, weights=None, **options)
    share = shares(initialize_(model, "he_normal"))
    assert share["filled"] > 0.97


def test_every_matrix_of_a_transformer_is_filled():
    assert shares(initialize_(nn.Transformer(32, 4, 2, 2, 64), "xavier_uniform"))["filled"] == 1
