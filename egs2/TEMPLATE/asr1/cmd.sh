# shellcheck shell=bash
# Where ESPnet's asr.sh runs its jobs (with an ESPnet checkout only): on this
# machine, or by a queue whose options are in the recipe's conf/slurm.conf, conf/pbs.conf or
# conf/queue.conf, which are copies of ESPnet's with your partitions.
#   cmd_backend=slurm ./run.sh --espnet_root DIR --ngpu 8 --num_nodes 2
case "${cmd_backend:=local}" in
    local) scheduler=run.pl ;;
    stdout) scheduler=stdout.pl ;;
    sge) scheduler=queue.pl ;;
    slurm) scheduler=slurm.pl ;;
    pbs) scheduler=pbs.pl ;;
    ssh) scheduler=ssh.pl ;;
    *)
        echo "cmd_backend=${cmd_backend}: must be local, stdout, sge, slurm, pbs or ssh" >&2
        return 1
        ;;
esac
export train_cmd="${scheduler}" cuda_cmd="${scheduler}" decode_cmd="${scheduler}"
