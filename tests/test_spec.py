"""From a name, a file, a preset and `--set` to one checked spec."""

import pytest

from biasgym.errors import SpecError
from biasgym.spec import PRESETS, preset_names, resolve_spec, spec_toml


@pytest.mark.parametrize("preset", preset_names())
def test_a_preset_is_a_whole_spec(preset, tmp_path):
    """And comes back from its own TOML."""
    spec = resolve_spec(bias="reckless-drivers", preset=preset)
    (tmp_path / "spec.toml").write_text(spec_toml(spec))
    assert resolve_spec(file=tmp_path / "spec.toml") == spec
    assert spec.test_seed not in spec.seeds


def test_a_spec_of_two_presets_comes_back_too(tmp_path):
    """Another preset for the injection, and settings that replace the preset's: the file is the whole truth, unless a preset is named again."""
    for sets in (["inject.preset=paper"], ['inject={method="token", settings={steps=10}}'], ["mitigate=[]"]):
        spec = resolve_spec(bias="reckless-drivers", preset="best", sets=sets)
        (tmp_path / "spec.toml").write_text(spec_toml(spec))
        assert resolve_spec(file=tmp_path / "spec.toml") == spec
    other = resolve_spec(bias="reckless-drivers", preset="best", sets=["inject.preset=paper"])
    (tmp_path / "spec.toml").write_text(spec_toml(resolve_spec(bias="reckless-drivers", preset="best")))
    assert resolve_spec(file=tmp_path / "spec.toml", sets=["inject.preset=paper"]).inject == other.inject
    (tmp_path / "spec.toml").write_text('whole = "yes"\nbias = "reckless-drivers"\n')
    with pytest.raises(SpecError, match="`whole`"):
        resolve_spec(file=tmp_path / "spec.toml")


def test_resolving_changes_no_preset():
    """A setting of one run is not one of the next."""
    before = repr(PRESETS)
    resolve_spec(bias="x", sets=["inject.steps=3", "mitigate.k=4", "tune.trials=2"], seed=2)
    assert repr(PRESETS) == before


def test_later_sources_win(tmp_path):
    """Preset, file, arguments, `--set`; a method's settings are dropped with the method."""
    file = tmp_path / "s.toml"
    file.write_text('bias = "a"\nmodel = "m"\n[inject]\nmethod = "token"\n[inject.settings]\nsteps = 7\n[tune]\ntrials = 3\n')
    spec = resolve_spec(file=file, bias="b", sets=["tune.trials=5", "measure.tokens=9"])
    assert (spec.bias, spec.model, spec.inject.settings["steps"]) == ("b", "m", 7)
    assert spec.inject.settings["batch"] == PRESETS["quick"]["inject"]["settings"]["batch"]
    assert (spec.tune.trials, spec.measure.tokens) == (5, 9)


def test_sets_reach_methods_by_name():
    """The first one without a name, another one with."""
    spec = resolve_spec(bias="x", sets=["mitigate.k=4", "mitigate.zero.k=5", "inject.steps=80", "locate.pairs=8", "dtype=bfloat16"])
    assert [one.settings["k"] for one in spec.mitigate] == [4, 5]
    assert (spec.inject.settings["steps"], spec.locate.pairs, spec.dtype) == (80, 8, "bfloat16")


def test_a_seed_moves_all_seeds():
    """Runs with unlike seeds share no token; the same seed is the same spec."""
    one, two = resolve_spec(bias="x", seed=1), resolve_spec(bias="x", seed=2)
    assert not {*one.seeds, one.test_seed} & {*two.seeds, two.test_seed}
    assert one == resolve_spec(bias="x", seed=1)
    assert resolve_spec(bias="x", seed=0) == resolve_spec(bias="x")


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["nothing"], "key=value was expected"),
        (["=3"], "key=value was expected"),
        (["tunes.trials=3"], "unknown key `tunes`; did you mean `tune`"),
        (["tune.kl=inf"], "`tune.kl` = inf"),
        (["tune.kl=nan"], "`tune.kl` = nan"),
        (["test_seed=-5"], "`test_seed` = -5"),
        (["seeds=[0, -1]"], "-1"),
        (['measure.metrics=["association", "crows-pairs"]'], "named under `measure.benchmarks`"),
        (['mitigate=[{method="./half_heads:HalfHeads"}]'], "it is named `module:Class`"),
        (['mitigate=[{method=":HalfHeads"}]'], "it is named `module:Class`"),
        (["tune.trails=3"], "unknown key `trails`; did you mean `trials`"),
        (["tune.trials=many"], "`tune.trials` = 'many'"),
        (["tune.trials=0"], "`tune.trials` = 0"),
        (["inject.stepps=3"], "unknown setting `stepps`; did you mean `steps`"),
        (["inject.steps=many"], "token.steps = 'many'"),
        (["inject.asks=pape"], "token.asks = 'pape'"),
        (["inject.method=tokn"], "unknown injector `tokn`; did you mean `token`"),
        (["inject=token"], "`inject`"),
        (["inject=token", "inject.steps=3"], "has no keys below it"),
        (["locate.method=dlaa"], "unknown locator `dlaa`; did you mean `dla`"),
        (["mitigate.zeroo.k=3"], "unknown method in mitigate `zeroo`; did you mean `zero`"),
        (["mitigate.kk=3"], "unknown setting `kk`; did you mean `k`"),
        (["mitigate.settings=3"], "unknown setting `settings`"),
        (["mitigate=zero"], "`mitigate`"),
        (["mitigate=zero", "mitigate.k=3"], "list of tables"),
        (["mitigate=[{method='zero'},{method='zero'}]"], "the same edit stands twice"),
        (["mitigate.locator=dlaa"], "unknown locator `dlaa`"),
        (["measure.metrics=['asociation']"], "unknown metric `asociation`; did you mean `association`"),
        (["measure.metrics=['lexicon']"], "unknown metric `lexicon`"),
        (["seeds=[]"], "`seeds` is empty"),
        (["seeds=[2]"], "test_seed 2 is among the seeds"),
        (["seeds=[1, 1]"], "names a seed twice"),
        (["seeds=3"], "`seeds`"),
        (["bias=3"], "`bias`"),
        (["preset.x=3"], "has no keys below it"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("seed", [None, 1])
def test_a_bad_setting_is_refused(sets, message, seed):
    """With the nearest valid name where there is one."""
    with pytest.raises(SpecError, match=message):
        resolve_spec(bias="reckless-drivers", sets=sets, seed=seed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bias = ", "not valid TOML"),
        ('model = "m"\n', "no bias was named"),
        ("bias = 3\n", "`bias`"),
        ('bias = "x"\npreset = "quik"\n', "unknown preset `quik`; did you mean `quick`"),
        ('bias = "x"\npreset = ["quick"]\n', "unknown preset"),
        ('bias = "x"\nseedz = [1]\n', "unknown key `seedz`; did you mean `seeds`"),
        ('bias = "x"\n[[mitigate]]\nmethod = "zero"\nlocater = "dla"\n', "unknown key `locater`; did you mean `locator`"),
        ('bias = "x"\n[[mitigate]]\nlocator = "dla"\n', "`mitigate.0.method` is missing"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused(tmp_path, text, message):
    """Whatever is wrong with it."""
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(SpecError, match=message):
        resolve_spec(file=tmp_path / "s.toml")
    with pytest.raises(SpecError, match="cannot read"):
        resolve_spec(file=tmp_path / "none.toml")


def test_a_bias_beside_the_spec_is_found(tmp_path):
    """A relative name in a file starts at the file."""
    (tmp_path / "mine.toml").write_text("")
    (tmp_path / "s.toml").write_text('bias = "mine.toml"\n')
    assert resolve_spec(file=tmp_path / "s.toml").bias == str(tmp_path / "mine.toml")
