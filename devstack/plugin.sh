# DevStack sources this file once for each phase. It only dispatches; the work is in lib/cloudlet.

source "$CLOUDLET_DIR/devstack/lib/cloudlet"

if is_service_enabled cloudlet; then
    case "$1 $2" in
        "stack install")
            install_cloudlet
            ;;
        "stack post-config")
            configure_cloudlet
            ;;
        "stack extra")
            init_cloudlet
            start_cloudlet
            ;;
        "unstack "*)
            stop_cloudlet
            unconfigure_cloudlet
            ;;
        "clean "*)
            cleanup_cloudlet
            ;;
    esac
fi
