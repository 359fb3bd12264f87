#!/usr/bin/env bash
# Run what the table of all protocols reads, by both protocols, and make it (python -m scripts.overview --help):
# bash scripts/overview.sh [--method METHOD] DATASETS SHOTS [options of train.py ...]
# It trains all methods unless --method chooses some. Finished runs are skipped; a failed run leaves its cell empty.
cd "$(dirname "$0")/.." || exit
case " $* " in *" --method "*) methods=() ;; *) methods=(--method all) ;; esac
for protocol in published strict; do
    for script in ood_detection base_to_new; do
        bash "scripts/$script.sh" --protocol "$protocol" "${methods[@]}" "$@"
        code=$?
        [ "$code" -le 1 ] || exit "$code" # a mistake, or an interrupt
    done
done
exec "${PYTHON:-python}" -m scripts.overview "$@"
