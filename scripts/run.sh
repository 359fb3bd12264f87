# Sourced by the scripts beside this file: runs of train.py, each where the others find it.
#
# Settings from the environment, with their defaults:
DATA=${DATA:-data}       # folder of the data sets
OUTPUT=${OUTPUT:-output} # folder of the results
SEEDS=${SEEDS:-1 2 3}    # one run for each
PYTHON=${PYTHON:-python}
# BACKBONE                 a file of configs/backbones: small for the embedded data sets, else vit_b16
# VARIANT                  name of the folder for runs with options of your own

# Buffers that malloc hands back after each training step are faulted in again at the next: a sixth of a CPU run's time.
export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-33554432} MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-1073741824}

# setup DATASET SHOTS ...: check the arguments that all scripts take, and set what `run` reads.
setup() {
    local known
    known=$(cd configs/datasets && ls -- *.yaml | sed 's/\.yaml$//' | paste -sd ' ')
    if [[ ! ${2:-} =~ ^[1-9][0-9]*$ ]]; then
        echo "error: usage: bash $0 DATASET SHOTS, with SHOTS 1 or more and DATASET one of: $known" >&2
        exit 2
    elif [[ ! -f configs/datasets/$1.yaml ]]; then
        echo "error: unknown data set $1: take one of: $known" >&2
        exit 2
    fi
    DATASET=$1 SHOTS=$2
    case $DATASET in
        fashion_mnist | emoji) BACKBONE=${BACKBONE:-small} ;;
        *) BACKBONE=${BACKBONE:-vit_b16} ;;
    esac
}

# folder TRAINER VARIANT: where the runs of a method lie, one folder a seed.
folder() {
    echo "$OUTPUT/$DATASET/$1/${BACKBONE}_${SHOTS}shots/$2"
}

# run TRAINER VARIANT SEED [options of train.py ...]: a finished run is skipped, an interrupted one continued.
run() {
    local trainer=$1 out file files=()
    out=$(folder "$1" "$2")/seed$3
    if [[ -f $out/results.json ]]; then
        echo "Finished before: $out (delete it to run it again)"
        return
    fi
    # A method's values for the data set are merged over those that it has for all.
    for file in "configs/trainers/$trainer/default.yaml" "configs/trainers/$trainer/$DATASET.yaml"; do
        [[ ! -f $file ]] || files+=(--config-file "$file")
    done
    "$PYTHON" train.py --trainer "$trainer" --root "$DATA" --output-dir "$out" --seed "$3" \
        --dataset-config-file "configs/datasets/$DATASET.yaml" --config-file "configs/backbones/$BACKBONE.yaml" \
        "${files[@]}" "${@:4}" DATASET.NUM_SHOTS "$SHOTS"
}
