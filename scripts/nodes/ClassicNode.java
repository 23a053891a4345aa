import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import PACKAGE.common.settings.Settings;
import PACKAGE.env.Environment;
import PACKAGE.node.InternalSettingsPreparer;
import PACKAGE.node.Node;
import PACKAGE.transport.Netty4Plugin;

/**
 * One Elasticsearch 7 or OpenSearch 2 node from its published jars; scripts/services writes org.elasticsearch or
 * org.opensearch for PACKAGE. The one argument is the node's home folder.
 */
public class ClassicNode extends Node {
    ClassicNode(Environment environment) {
        super(environment, List.of(Netty4Plugin.class), true);
    }

    public static void main(String[] arguments) throws Exception {
        Path home = Path.of(arguments[0]).toAbsolutePath();
        Settings settings = Settings.builder().put("path.home", home.toString()).build();
        ClassicNode node = new ClassicNode(
            InternalSettingsPreparer.prepareEnvironment(settings, Map.of(), home.resolve("config"), () -> "node"));
        node.start();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                node.close();
            } catch (java.io.IOException e) {
                e.printStackTrace();
            }
        }));
        Thread.currentThread().join();
    }
}
