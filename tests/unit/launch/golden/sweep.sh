#!/usr/bin/env bash
#SBATCH --job-name=novels
#SBATCH --nodes=1
#SBATCH --cpus-per-task=1
#SBATCH --time=1:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --open-mode=append
#SBATCH --chdir=/shared/runs/novels/launch
#SBATCH --output=%x-%A_%a.log
#SBATCH --array=0-2%2
#SBATCH --requeue
set -euo pipefail
cd -- '/shared/my project'
export RESONANCE_FAILURE_LOG=/shared/runs/novels/launch/failures-"$SLURM_ARRAY_TASK_ID"
export RESONANCE_RENDEZVOUS_SECRET_FILE=/shared/runs/novels/launch/.rendezvous-secret
mode=${1:-single}
script=/shared/runs/novels/launch/job.sh
run_file=/shared/runs/novels/launch/run-"$SLURM_ARRAY_TASK_ID".toml
first=$SLURMD_NODENAME
port=$((29400 + SLURM_ARRAY_TASK_ID))
python=/shared/venv/bin/python
limits=(20 3 2)
step=
stopped=0
again=0
stop() {
    echo "resonance: received a request to stop; the ranks save and exit"
    stopped=1
    again=1
    if [[ -n $step ]]; then kill -USR1 "$step" || true; fi
}
trap stop USR1 TERM

env \
    OMP_NUM_THREADS=1 \
    APPTAINERENV_OMP_NUM_THREADS=1 \
    srun \
    --nodes="$SLURM_NNODES" \
    --ntasks="$SLURM_NNODES" \
    --ntasks-per-node=1 \
    --mem=0 \
    --export=ALL \
    --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    --kill-on-bad-exit=0 \
    --wait=300 \
    apptainer \
    exec \
    --bind='/shared/my project:/shared/my project' \
    --bind=/shared/runs/novels/launch:/shared/runs/novels/launch \
    --bind=/shared/runs/novels:/shared/runs/novels \
    --pwd='/shared/my project' \
    '/shared/my image.sif' \
    python3 \
    -m \
    pretrain.runtime.torchrun_agent \
    --nnodes="$SLURM_NNODES" \
    --rdzv-backend=c10d \
    --rdzv-endpoint="$first:$port" \
    --rdzv-id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" \
    --node-index-variable=SLURM_NODEID \
    --nproc-per-node=1 \
    --max-restarts=3 \
    --module \
    pretrain.cli \
    pretrain \
    "$run_file" \
    --auto-resume &
step=$!
status=0
wait "$step" || status=$?
# a signal ends `wait` early: wait again after each one
while ((again)); do
    again=0
    status=0
    wait "$step" || status=$?
done
trap '' USR1 TERM
# a marked line: a site's squeue may print more
state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --states=all --format=state=%T |
    sed -n 's/^state=//p' | tail -n 1) || state=UNKNOWN
decision=$("$python" -m launch.slurm.requeue "${limits[@]}" "$status" "$stopped" "$state" \
    "${SLURM_RESTART_COUNT:-0}" "$mode") || decision=stop
decision=${decision##*$'\n'}
echo "resonance: the ranks ended with status $status; now: $decision"
case $decision in
requeue)
    scontrol requeue "$SLURM_JOB_ID"
    # Slurm ends this script
    sleep 600
    ;;
exclude\ *)
    "$python" -m launch.slurm.resubmit "${decision#exclude }" "$mode" "$script" || true
    ;;
esac
exit "$status"
