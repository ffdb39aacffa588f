"""Mistakes to plant into the bundled tables."""

from __future__ import annotations

SIZES = '"hidden_size -> hidden_size"'
POOLER = '"pooler.dense" = { linear = "hidden_size -> hidden_size" }'
UNTIED = "tie_word_embeddings == false"

# name: table, what is changed, and what the finding must name
PLANTED = {
    "sizes of a tied kernel swapped": (
        "bert",
        [
            (
                '"cls.predictions.decoder"             = { linear = "hidden_size -> vocab_size" }',
                '"cls.predictions.decoder" = { linear = "vocab_size -> hidden_size" }',
            )
        ],
        ["tied.cls.predictions.decoder.weight", "another shape"],
    ),
    "axes of a kernel that do not match": (
        "_dialects",
        [
            (
                '[linear]\nsizes  = "in -> out"\nweight = { init = "normal", axes = "out in"',
                '[linear]\nsizes  = "in -> out"\nweight = { init = "normal", axes = "in"',
            )
        ],
        ["linear.weight", "different axes"],
    ),
    "an axis that is not a size": (
        "_dialects",
        [('[embedding]\nsizes  = "rows -> width"', '[embedding]\nsizes = "rows -> breadth"')],
        ["embedding.weight.pytorch.axes", "not among the sizes"],
    ),
    "a size that no axis has": (
        "_dialects",
        [('[layer_norm]\nsizes  = "width"', '[layer_norm]\nsizes = "width -> depth"')],
        ["layer_norm.sizes", "'depth'"],
    ),
    "two leaves of one name": (
        "_dialects",
        [('pytorch = { aliases = ["beta"] }', 'pytorch = { name = "gamma" }')],
        ["layer_norm", "'gamma'"],
    ),
    "axes that no dialect has": (
        "_dialects",
        [('init = "normal", axes = "rows width", tensorflow', 'init = "normal", tensorflow')],
        ["embedding.weight.flax", "lacks 'axes'"],
    ),
    "an unknown layer type": (
        "bert",
        [("{ vector =", "{ vectors =")],
        ["heads.lm.cls.predictions.bias", "must name one layer type"],
    ),
    "a name claimed twice": (
        "bert",
        [(POOLER, POOLER + '\n"encoder.layer.0.output.dense" = { linear = ' + SIZES + " }")],
        ["encoder.layer.{…}.output.dense.weight", "claimed twice", "pytorch", "tensorflow", "flax"],
    ),
    "a name claimed twice in one dialect only": (
        "bert",
        [("mlm___cls/predictions/bias", "mlm___cls/predictions/transform/dense/bias")],
        ["claimed twice", "cls.predictions.bias", "tensorflow"],
    ),
    "a name claimed twice by leaving out the base model": (
        "bert",
        [(POOLER, POOLER + '\n"bert.embeddings.LayerNorm" = { layer_norm = "hidden_size" }')],
        ["claimed twice", "bert.embeddings.LayerNorm.weight"],
    ),
    "a condition that is never true": (
        "electra",
        [('when = "embedding_size != hidden_size"', 'when = "embedding_size != embedding_size"')],
        ["modules.embeddings_project.when", "never true"],
    ),
    "a condition that is always true": (
        "electra",
        [('when = "embedding_size != hidden_size"', 'when = "embedding_size == embedding_size"')],
        ["modules.embeddings_project.when", "always true"],
    ),
    "a row without tensors": (
        "gpt2",
        [
            (
                'n_embd -> vocab_size", bias = false',
                'n_embd -> vocab_size", bias = false, weight = false',
            )
        ],
        ["heads.lm.lm_head", "dead"],
    ),
    "an unknown field in a size": (
        "bert",
        [('embedding = "type_vocab_size', 'embedding = "type_vocabulary_size')],
        ["modules.embeddings.token_type_embeddings.embedding", "'type_vocabulary_size'"],
    ),
    "an unknown field in a condition": (
        "electra",
        [("embedding_size != hidden_size", "embedding_size != hidden")],
        ["modules.embeddings_project.when", "'hidden'"],
    ),
    "an unknown field that counts": (
        "gpt2",
        [('layer = "n_layer"', 'layer = "n_layers"')],
        ["layers.layer", "'n_layers'"],
    ),
    "an unknown field that measures": (
        "gpt2",
        [('width      = "n_embd"', 'width      = "n_embed"')],
        ["attributes.width", "'n_embed'"],
    ),
    "an unknown field in an initializer": (
        "gpt2",
        [('init              = "normal(initializer_range)"', 'init      = "normal(init_range)"')],
        ["init", "'init_range'"],
    ),
    "a field that nothing uses": (
        "gpt2",
        [("n_head              = 12", "n_head = 12\nn_special = 0")],
        ["config.n_special", "used nowhere"],
    ),
    "a measure missing": ("distilbert", [('width      = "dim"\n', "")], ["attributes", "'width'"]),
    "a measure missing that a composite asks for": (
        "distilbert",
        [('width      = "dim"', 'breadth    = "dim"')],
        ["attributes", "'width'"],
    ),
    "a tie to nothing": (
        "gpt2",
        [('to = "wte.weight"', 'to = "wtf.weight"')],
        ["tied.lm_head.weight", "wtf.weight", "not there"],
    ),
    "a tie of nothing": (
        "gpt2",
        [('"lm_head.weight" =', '"lm_haed.weight" =')],
        ["tied.lm_haed.weight", "no model has"],
    ),
    "a tie to another shape": (
        "gpt2",
        [('to = "wte.weight"', 'to = "wpe.weight"')],
        ["tied.lm_head.weight", "another shape"],
    ),
    "a shared embedding that is not there": (
        "bert",
        [("[repeated.tensorflow]", '[repeated.tensorflow]\nxyz = ["embeddings.wte.weight"]')],
        ["repeated.tensorflow.xyz", "embeddings.wte.weight"],
    ),
    "a tie with places out of nowhere": (
        "gpt2",
        [('to = "wte.weight"', 'to = "h.{layer}.attn.c_attn.weight"')],
        ["tied.lm_head.weight.to", "{layer}"],
    ),
    "a circle of ties": (
        "gpt2",
        [("[tied]", '[tied]\n"wte.weight" = { to = "lm_head.weight" }')],
        ["tied.wte.weight", "circle"],
    ),
    "a place missing from a path": (
        "gpt2",
        [('"h.{layer}.ln_1"', '"h.ln_1"')],
        ["modules.h.ln_1", "lacks the place"],
    ),
    "a place that nothing counts": (
        "gpt2",
        [('"h.{layer}.ln_2"', '"h.{block}.ln_2"')],
        ["modules.h.{block}.ln_2", "how many {block}"],
    ),
    "a place that no path has": (
        "gpt2",
        [('layer = "n_layer"', 'layer = "n_layer", head = "n_head"')],
        ["layers.head", "no path"],
    ),
    "a place missing in one dialect": (
        "gpt2",
        [
            (
                '"h.{layer}.ln_1"        = { layer_norm = "n_embd", ',
                '"h.{layer}.ln_1" = { layer_norm = "n_embd", path.flax = "h/ln_1", ',
            )
        ],
        ["modules.h.{layer}.ln_1.path", "other placeholders"],
    ),
    "a path that follows anyway": (
        "gpt2",
        [
            (
                '"ln_f"                  = { layer_norm = "n_embd" }',
                '"ln_f" = { layer_norm = "n_embd", path.flax = "ln_f" }',
            )
        ],
        ["modules.ln_f.path.flax", "changes nothing"],
    ),
    "a leaf's name that follows anyway": (
        "gpt2",
        [
            (
                '"wte"                   = { embedding = "vocab_size -> n_embd" }',
                '"wte" = { embedding = "vocab_size -> n_embd", param.flax = "embedding" }',
            )
        ],
        ["modules.wte.param.flax", "changes nothing"],
    ),
    "a drop that hits a tensor": (
        "gpt2",
        [('"h.{layer}.attn.bias" ', '"h.{layer}.attn.c_attn.bias" ')],
        ["ignore.pytorch.h.{layer}.attn.c_attn.bias", "ignores a tensor that the model has"],
    ),
    "a drop without a reason": (
        "albert",
        [('"a buffer that old versions saved"', '""')],
        ["ignore.pytorch.embeddings.position_ids", "reason"],
    ),
    "a model of an unknown part": (
        "bert",
        [('parts = ["pooler"], heads = ["lm", "nsp"]', 'parts = ["hinge"], heads = ["lm", "nsp"]')],
        ["models.BertForPreTraining.parts", "'hinge' is not a part"],
    ),
    "a model of an unknown head": (
        "albert",
        [('heads = ["lm", "sop"]', 'heads = ["lm", "sop", "nsp"]')],
        ["models.AlbertForPreTraining.heads", "'nsp' is not a head"],
    ),
    "a head that no model has": (
        "albert",
        [('heads = ["lm", "sop"]', 'heads = ["lm"]')],
        ["heads.sop", "no model has it"],
    ),
    "a role of an unknown model": (
        "albert",
        [('encoder = { model = "AlbertModel"', 'encoder = { model = "AlbertModle"')],
        ["roles.encoder.model", "'AlbertModle'"],
    ),
    "a role that no composite has": (
        "albert",
        [("[roles]\nencoder =", "[roles]\nreader =")],
        ["roles.reader", "not a submodel of any composite"],
    ),
    "a role for some frameworks without a reason": (
        "albert",
        [('model = "AlbertModel",', 'model = "AlbertModel", frameworks = ["pytorch"],')],
        ["roles.encoder.frameworks", "without a reason"],
    ),
    "a decoder without cross-attention": (
        "albert",
        [("[roles]\n", '[roles]\ndecoder = { model = "AlbertForMaskedLM" }\n')],
        ["roles.decoder", "no cross-attention"],
    ),
    "cross-attention without a decoder": (
        "gpt2",
        [
            (
                'decoder = { model = "GPT2LMHeadModel", '
                "config = { is_decoder = true, add_cross_attention = true } }\n",
                "",
            )
        ],
        ["parts.cross_attention", "no role 'decoder'"],
    ),
    "a limit for an unknown head": (
        "gpt2",
        [('head = "lm"', 'head = "ml"')],
        ["unsupported.untied.head", "'ml' is not a head"],
    ),
    "a limit for an unknown framework": (
        "gpt2",
        [('frameworks = ["tensorflow"]', 'frameworks = ["theano"]')],
        ["unsupported.untied.frameworks", "'theano'"],
    ),
    "a limit that never applies": (
        "gpt2",
        [('when = "tie_word_embeddings == false"', 'when = "n_embd < 0"')],
        ["unsupported.untied.when", "never true"],
    ),
    "a token of no role": ("gpt2", [("pad   = {", "mask  = {")], ["tokens.mask"]),
    "an extended table that is not there": (
        "roberta",
        [('extends           = "bert"', 'extends = "none"')],
        ["extends", "none"],
    ),
    "a table that extends itself": (
        "roberta",
        [('extends           = "bert"', 'extends = "roberta"')],
        ["extends itself"],
    ),
    "a field that is overridden with the same": (
        "electra",
        [("[config]\n", "[config]\nvocab_size = 30522\n")],
        ["config.vocab_size", "changes nothing"],
    ),
    "a row that is overridden with the same": (
        "roberta-prelayernorm",
        [("[modules]  ", '[modules]\n"embeddings.LayerNorm" = { layer_norm = "hidden_size" }\n#')],
        ["modules.embeddings.LayerNorm", "changes nothing"],
    ),
    "a row taken away that is not there": (
        "roberta-prelayernorm",
        [('"encoder.layer.{layer}.output.LayerNorm"           = false', '"output.LN" = false')],
        ["output.LN", "not there"],
    ),
    "sizes that never come out": (
        "gpt2",
        [
            (
                '"wpe"                   = { embedding = "n_positions',
                '"wpe" = { embedding = "n_positions / 1.7',
            )
        ],
        ["config", "cannot be evaluated"],
    ),
    "a composite that asks for no measure": (
        "encoder-decoder",
        [('when = "encoder.width != decoder.width"', 'when = "encoder.width != decoder.depth"')],
        ["modules.enc_to_dec_proj.when", "decoder.depth"],
    ),
    "a composite whose limit asks for no measure": (
        "speech-encoder-decoder",
        [("encoder.width != encoder.hidden_width", "encoder.width != encoder.depth")],
        ["unsupported.adapter_width.when", "encoder.depth"],
    ),
    "an encoder without a measure that its own composite asks for": (
        "unispeech",
        [('hidden_size"\nstated_width', 'hidden_size"\n#')],
        ["attributes", "stated_width"],
    ),
    "a composite that asks no half": (
        "encoder-decoder",
        [('linear = "encoder.width ->', 'linear = "reader.width ->')],
        ["modules.enc_to_dec_proj.linear", "reader.width"],
    ),
    "a composite that does not say how to draw": (
        "encoder-decoder",
        [(', init = "normal(decoder.init_range)"', "")],
        ["modules.enc_to_dec_proj", "has no init"],
    ),
    "a composite with a dead row": (
        "encoder-decoder",
        [("encoder.width != decoder.width", "encoder.width != encoder.width")],
        ["modules.enc_to_dec_proj", "dead"],
    ),
    "a composite whose row is a half's": (
        "encoder-decoder",
        [('"enc_to_dec_proj"', '"decoder.transformer.ln_f"')],
        ["claimed twice"],
    ),
}
