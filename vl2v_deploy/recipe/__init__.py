"""THE schema: one recipe describes a distillation, from domains and teacher to student.

`load_recipe` reads YAML, applies `--set` overrides, and reports every error at once, each with its file
and field. Nothing here imports torch: a bad recipe fails in milliseconds.
"""

from vl2v_deploy.recipe.files import (
    dump_recipe,
    load_recipe,
    recipe_json_schema,
    recipe_sha256,
)
from vl2v_deploy.recipe.inputs import (
    BUILTIN_DATA,
    BUILTIN_TEACHER,
    BUILTIN_WEIGHTS,
    TEACHER_TOWER,
    DataRecipe,
    PromptsRecipe,
    SplitRecipe,
    StudentRecipe,
)
from vl2v_deploy.recipe.methods import DEFAULT_METHOD, METHODS, STAGES, Method, StageName
from vl2v_deploy.recipe.single import (
    asks_about_training_images,
    image_weight,
    method_of,
    selects_on_target,
    stages_of,
    teacher_labels,
    trains_on_unlabelled,
    unlabelled_per_step,
)
from vl2v_deploy.recipe.teachers import (
    OpenClipRecipe,
    PrecomputedRecipe,
    PythonRecipe,
    TeacherRecipe,
    TransformersRecipe,
    fits_logit_scale,
    fixed_scale,
    teacher_from_tree,
)
from vl2v_deploy.recipe.training import (
    AlignRecipe,
    AugmentationRecipe,
    Averaging,
    BaselineRecipe,
    DistillRecipe,
    StageRecipe,
    SwadRecipe,
)
from vl2v_deploy.recipe.vendors import (
    APIS,
    MOST_ITEMS,
    Api,
    BudgetRecipe,
    HttpRecipe,
    SentImageRecipe,
    TermsRecipe,
)
from vl2v_deploy.recipe.whole import (
    MethodName,
    Recipe,
    methods_of,
    recipe_from_tree,
    recipe_of_method,
)

__all__ = [
    "APIS",
    "BUILTIN_DATA",
    "BUILTIN_TEACHER",
    "BUILTIN_WEIGHTS",
    "DEFAULT_METHOD",
    "METHODS",
    "MOST_ITEMS",
    "STAGES",
    "TEACHER_TOWER",
    "AlignRecipe",
    "Api",
    "AugmentationRecipe",
    "Averaging",
    "BaselineRecipe",
    "BudgetRecipe",
    "DataRecipe",
    "DistillRecipe",
    "HttpRecipe",
    "Method",
    "MethodName",
    "OpenClipRecipe",
    "PrecomputedRecipe",
    "PromptsRecipe",
    "PythonRecipe",
    "Recipe",
    "SentImageRecipe",
    "SplitRecipe",
    "StageName",
    "StageRecipe",
    "StudentRecipe",
    "SwadRecipe",
    "TeacherRecipe",
    "TermsRecipe",
    "TransformersRecipe",
    "asks_about_training_images",
    "dump_recipe",
    "fits_logit_scale",
    "fixed_scale",
    "image_weight",
    "load_recipe",
    "method_of",
    "methods_of",
    "recipe_from_tree",
    "recipe_json_schema",
    "recipe_of_method",
    "recipe_sha256",
    "selects_on_target",
    "stages_of",
    "teacher_from_tree",
    "teacher_labels",
    "trains_on_unlabelled",
    "unlabelled_per_step",
]
